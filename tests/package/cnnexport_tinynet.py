from cnnexport.architectures.network import network
from cnnexport.architectures.spec import Architecture, Difference, Figure, Source


def _features(x):
    from keras import layers  # inside: `cnnexport list` must not import TensorFlow

    x = layers.Conv2D(8, 3, strides=2, activation="relu", name="conv1")(x)
    return layers.Conv2D(16, 3, strides=2, activation="relu", name="conv2")(x)


def _top(x, classes, activation):
    from keras import layers

    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return layers.Dense(classes, activation=activation, name="predictions")(x)


ARCHITECTURE = Architecture(
    name="tinynet",
    family="tiny",
    depth=3,
    parameters=1_562,
    macs=466_936,
    input_shape=(64, 64, 3),
    min_size=8,
    build=network("tinynet", _features, _top),
    source=Source(authors="Doe", title="A Tiny Network", venue="Example Workshop", year=2026),
    paper_parameters=Figure(1_000, "1 thousand", "abstract", step=1_000),
    paper_macs=Figure(470_000, "0.47 million", "Table 1", step=10_000),
    differences=(Difference("the paper's convolutions have no biases and it counts no classifier", 194),),
    classes=10,
)
