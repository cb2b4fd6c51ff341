"""Tables of other papers and programs, a short file each."""
