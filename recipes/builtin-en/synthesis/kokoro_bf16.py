"""Kokoro with its convolutions in bfloat16, 2.4 instead of 1.4 x real time a core, and all but the held-out voices."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import openvino
from kokoro import DURATIONS, ENGLISH, HELDOUT_VOICES, Kokoro, session
from onnx import NodeProto, TensorProto, helper, numpy_helper

ENGLISH_SHARE = 0.6  # of single voices and of the first of a blend; the others were made for other languages
SINGLE_SHARE = 0.35
SINE_TERMS = 4  # within 6e-5 of the square of a sine


GENERATOR = "/decoder/decoder/generator"
SOUND, SOURCE, SPECTRUM = (  # [1, C, T]: into the generator, the harmonics beside it, and out of its last convolution
    f"{GENERATOR}/LeakyRelu_output_0",
    f"{GENERATOR}/Concat_3_output_0",
    f"{GENERATOR}/conv_post/Conv_output_0",
)


def split(model: Path, cache: Path) -> list[Path]:
    """The model in three: what leads up to the generator, its convolutions, and the inverse transform.

    Only the middle, where nearly all operations are, computes in bfloat16; the phases of the source and of the
    spectrum need more digits.
    """
    kept = [cache / f"kokoro-{name}.onnx" for name in ("before", "generator", "after")]
    if not all(file.exists() for file in kept):
        loaded = onnx.load(model)
        audio, durations = (output.name for output in loaded.graph.output)
        before = part(loaded, [], [SOUND, SOURCE, durations])
        generator = part(loaded, [SOUND, SOURCE], [SPECTRUM])
        without_integers(generator.graph)
        without_sines(generator.graph)
        for made, file in zip((before, generator, part(loaded, [SPECTRUM], [audio])), kept, strict=True):
            onnx.save(made, file)
    return kept


def part(model: onnx.ModelProto, inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    """What computes `outputs` from `inputs` and those of the model's own inputs that are needed as well."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    del graph.output[:]
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs)
    replace(graph, [node for node in graph.node if not set(node.output).intersection(inputs)])
    used = {name for node in graph.node for name in node.input}
    own = [value for value in graph.input if value.name in used]
    cut = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, None]) for name in inputs]
    del graph.input[:]
    graph.input.extend([*cut, *own])
    return made


def users_of(graph: onnx.GraphProto) -> dict[str, list[NodeProto]]:
    users: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    return users


def replace(graph: onnx.GraphProto, nodes: list[NodeProto]) -> None:
    """Put `nodes` in the place of all, without those that nothing depends on."""
    while True:
        used = {name for node in nodes for name in node.input} | {output.name for output in graph.output}
        kept = [node for node in nodes if used.intersection(node.output)]
        if len(kept) == len(nodes):
            break
        nodes = kept
    weights = [weight for weight in graph.initializer if weight.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)


def without_integers(graph: onnx.GraphProto) -> None:
    """ConvInteger, the bias in integers, Cast and Mul by both scales -> Conv with the weights that were meant."""
    weights = {weight.name: weight for weight in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    users, plain = users_of(graph), {}
    for node in graph.node:
        if node.op_type != "ConvInteger":
            continue
        after, bias = users[node.output[0]][0], []
        if after.op_type == "Add":
            name = next(name for name in after.input if name != node.output[0])
            while name not in weights:
                name = made[name].input[0]
            bias, after = [name], users[after.output[0]][0]
        product = users[after.output[0]][0]
        scales = made[next(name for name in product.input if name != after.output[0])]
        scale = next(numpy_helper.to_array(weights[name]) for name in scales.input if name in weights)
        whole, zero = (
            numpy_helper.to_array(weights[name]).astype(np.float32) for name in (node.input[1], node.input[3])
        )
        name = f"{node.output[0]}_weight"
        graph.initializer.append(numpy_helper.from_array((whole - zero) * scale.astype(np.float32).item(), name))
        inputs = [made[node.input[0]].input[0], name, *bias]
        conv = helper.make_node("Conv", inputs, [product.output[0]], name=node.name)
        conv.attribute.extend(node.attribute)
        plain[product.output[0]] = conv
    replace(graph, [plain.get(node.output[0], node) for node in graph.node])


def without_sines(graph: onnx.GraphProto) -> None:
    """Sin and the Pow after it -> q (c0 + q (c1 + ...)), where q is the square of the distance in units of pi."""
    distance = np.linspace(-0.5, 0.5, 2001)
    powers = np.stack([distance ** (2 * k) for k in range(1, SINE_TERMS + 1)], axis=1)
    factors = np.linalg.lstsq(powers, np.sin(np.pi * distance) ** 2, rcond=None)[0]
    for name, value in [("one_over_pi", 1 / np.pi), *((f"sine_{k}", value) for k, value in enumerate(factors))]:
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    users, nodes, done = users_of(graph), [], set()
    for node in graph.node:
        after = users.get(node.output[0], [])
        if node.output[0] in done:
            continue
        if node.op_type != "Sin" or [user.op_type for user in after] != ["Pow"]:
            nodes.append(node)
            continue
        done.add(after[0].output[0])

        def add(kind: str, *inputs: str, output: str = "", name: str = node.name) -> str:
            output = output or f"{name}_{len(nodes)}"
            nodes.append(helper.make_node(kind, inputs, [output], name=output))
            return output

        turns = add("Mul", node.input[0], "one_over_pi")
        away = add("Sub", turns, add("Round", turns))
        square = add("Mul", away, away)
        total = f"sine_{SINE_TERMS - 1}"
        for k in reversed(range(SINE_TERMS - 1)):
            total = add("Add", add("Mul", total, square), f"sine_{k}")
        add("Mul", total, square, output=after[0].output[0])
    replace(graph, nodes)


class InThree:
    """Answers like an onnxruntime session of the whole model."""

    def __init__(self, before: Path, generator: Path, after: Path) -> None:
        self.before, self.after = session(before), session(after)
        core = openvino.Core()
        hints = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
        self.generator = core.compile_model(core.read_model(generator), "CPU", hints).create_infer_request()

    def run(self, _: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        sound, source, frames = self.before.run([SOUND, SOURCE, DURATIONS], inputs)
        spectrum = self.generator.infer({SOUND: sound, SOURCE: source, "style": inputs["style"]})[0]
        return [self.after.run(None, {SPECTRUM: spectrum})[0], frames]


class KokoroBfloat16(Kokoro):
    def __init__(self, cache: Path) -> None:
        super().__init__(cache)
        self.session = InThree(*split(cache / "kokoro-durations.onnx", cache))
        files = sorted((cache / "npm/kokoro-js/voices").glob("*.bin"))
        self.voices = {file.stem: np.fromfile(file, np.float32).reshape(-1, 256) for file in files}
        self.training = [voice for voice in self.voices if voice not in HELDOUT_VOICES]
        self.english = [voice for voice in self.training if voice.startswith(ENGLISH)]

    def choose(self, split: str, rng: random.Random) -> tuple[str, np.ndarray, bool]:
        if split == "heldout":
            return super().choose(split, rng)
        first = rng.choice(self.english if rng.random() < ENGLISH_SHARE else self.training)
        british = first.startswith("b") or (not first.startswith(ENGLISH) and rng.random() < 0.3)
        if rng.random() < SINGLE_SHARE:
            return first, self.voices[first], british
        second = rng.choice([voice for voice in self.training if voice != first])
        share = round(rng.uniform(0.4, 0.9), 2)
        table = share * self.voices[first] + (1 - share) * self.voices[second]
        return f"{first}*{share:.2f}+{second}*{1 - share:.2f}", table, british
