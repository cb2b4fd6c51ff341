"""The figures of Auto-Encoding Variational Bayes (Kingma & Welling 2013, arXiv 1312.6114) and its notes, one file each.

    make paper          # everything, resumable: hours, and real MNIST and Frey faces (PPVAE_DATA)
    make paper-quick    # the same on the bundled digits, in minutes

A file is a description of an experiment: its ``cells``, which are worked through one by one and keep what they find,
its ``pictures``, and its ``page``, which says what agrees with the paper and what does not.
"""
