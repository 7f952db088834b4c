"""DeepMind's own graph (github.com/google-deepmind/learning-to-learn) as `l2l bench`'s peer, on random images.

    python deepmind_l2l.py CHECKOUT PROBLEM WINDOW HIDDEN TASKS

runs its meta.py, networks.py, preprocess.py and problems.py unchanged, under tf.compat.v1 of a TensorFlow 2, and says its
versions in a line of JSON. From then on a line on stdin is one meta-step (a window of W optimizee steps, its meta-gradient and
Adam's step), answered by a line with its seconds. What they import besides and nobody can install any more (Sonnet 1, dill,
contrib's MNIST) has a stand-in here, written from its documentation: an LSTM with one matrix of gates and a forget bias of 1.
"""

import json
import pickle
import sys
import time
import types

import numpy as np
import tensorflow as real

tf = real.compat.v1
tf.disable_v2_behavior()


class AbstractModule:
    """A module whose variables are made where it is first called, and used again after that."""

    def __init__(self, name="module"):
        self._template = tf.make_template(name, self._build, create_scope_now_=True)

    def __call__(self, *args):
        return self._template(*args)

    def _build(self, *args):
        raise NotImplementedError


class Linear(AbstractModule):
    def __init__(self, output_size, name="linear", initializers=None):
        super().__init__(name)
        self.output_size, self.initializers = output_size, initializers or {}

    def _build(self, inputs):
        size = inputs.get_shape().as_list()[-1]
        start = tf.truncated_normal_initializer(stddev=size**-0.5)
        w = tf.get_variable("w", [size, self.output_size], tf.float32, initializer=self.initializers.get("w", start))
        zeros = tf.zeros_initializer()
        b = tf.get_variable("b", [self.output_size], tf.float32, initializer=self.initializers.get("b", zeros))
        return tf.matmul(inputs, w) + b


class LSTM(AbstractModule):
    def __init__(self, hidden_size, name="lstm", initializers=None):
        super().__init__(name)
        self.size, self.initializers = hidden_size, initializers or {}

    def initial_state(self, batch_size, dtype=tf.float32):
        return tf.zeros([batch_size, self.size], dtype), tf.zeros([batch_size, self.size], dtype)

    def _build(self, inputs, state):
        hidden, cell = state
        both = tf.concat([inputs, hidden], 1)
        size = both.get_shape().as_list()[-1]
        start = tf.truncated_normal_initializer(stddev=size**-0.5)
        w = tf.get_variable("w_gates", [size, 4 * self.size], tf.float32, initializer=self.initializers.get("w_gates", start))
        zeros = tf.zeros_initializer()
        b = tf.get_variable("b_gates", [4 * self.size], tf.float32, initializer=self.initializers.get("b_gates", zeros))
        i, j, f, o = tf.split(tf.matmul(both, w) + b, 4, 1)
        cell = cell * tf.sigmoid(f + 1.0) + tf.sigmoid(i) * tf.tanh(j)
        hidden = tf.tanh(cell) * tf.sigmoid(o)
        return hidden, (hidden, cell)


class DeepRNN(AbstractModule):
    def __init__(self, cores, skip_connections=False, name="deep_rnn"):
        super().__init__(name)
        self.cores = cores

    def initial_state(self, batch_size, dtype=tf.float32):
        return tuple(core.initial_state(batch_size, dtype) for core in self.cores)

    def _build(self, inputs, state):
        after = []
        for core, own in zip(self.cores, state, strict=True):
            inputs, own = core(inputs, own)
            after.append(own)
        return inputs, tuple(after)


class MLP(AbstractModule):
    def __init__(self, output_sizes, activation, initializers=None, name="mlp"):
        super().__init__(name)
        self.activation = activation
        self.layers = [Linear(size, f"linear_{i}", initializers) for i, size in enumerate(output_sizes)]

    def _build(self, inputs):
        for layer in self.layers[:-1]:
            inputs = self.activation(layer(inputs))
        return self.layers[-1](inputs)


class BatchFlatten(AbstractModule):
    def __init__(self, name="flatten"):
        super().__init__(name)

    def _build(self, inputs):
        return tf.reshape(inputs, [-1, int(np.prod(inputs.get_shape().as_list()[1:]))])


class Sequential(AbstractModule):
    def __init__(self, layers, name="sequential"):
        super().__init__(name)
        self.parts = layers

    def _build(self, inputs):
        for part in self.parts:
            inputs = part(inputs)
        return inputs


def stand_ins(pixels):
    """Put what cannot be installed where their imports find it."""
    rng = np.random.default_rng(0)
    images, labels = rng.random((10_000, pixels), np.float32), rng.integers(0, 10, 10_000)
    split = types.SimpleNamespace(images=images, labels=labels, num_examples=len(labels))
    sonnet = types.ModuleType("sonnet")
    sonnet.AbstractModule = sonnet.RNNCore = AbstractModule
    sonnet.Linear, sonnet.LSTM, sonnet.DeepRNN = Linear, LSTM, DeepRNN
    sonnet.BatchFlatten, sonnet.Sequential = BatchFlatten, Sequential
    sonnet.nets = types.SimpleNamespace(MLP=MLP)
    sonnet.get_variables_in_module = lambda module: []
    mnist = types.ModuleType("mnist")
    mnist.load_mnist = lambda: types.SimpleNamespace(train=split)
    sys.modules |= {"sonnet": sonnet, "dill": pickle, "tensorflow": tf}
    path = "tensorflow.contrib.learn.python.learn.datasets"
    parts = path.split(".")
    for i in range(2, len(parts) + 1):
        sys.modules[".".join(parts[:i])] = types.ModuleType(parts[i - 1])
    sys.modules[path].mnist = mnist


def main(checkout, problem, window, hidden, tasks):
    """Build the graph, then run a meta-step for each line of stdin."""
    stand_ins(784)
    sys.path.insert(0, checkout)
    out, sys.stdout = sys.stdout, sys.stderr  # they print the names of variables
    import meta
    import problems

    shown = ("LogAndSign", {"k": 5}) if problem == "mnist" else ("identity", None)
    net = {"layers": (hidden, hidden), "preprocess_name": shown[0], "preprocess_options": shown[1], "scale": 0.01}
    optimizer = meta.MetaOptimizer(cw={"net": "CoordinateWiseDeepLSTM", "net_options": net})
    loss = problems.mnist(layers=(20,)) if problem == "mnist" else problems.quadratic(batch_size=tasks, num_dims=10)
    graph = optimizer.meta_minimize(loss, window, learning_rate=1e-3)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        session.run(graph.reset)
        out.write(json.dumps({"tensorflow": real.__version__}) + "\n")
        out.flush()
        for _ in sys.stdin:
            began = time.perf_counter()
            session.run([graph.fx, graph.step, graph.update])
            out.write(f"{time.perf_counter() - began}\n")
            out.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
