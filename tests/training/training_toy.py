"""A method and a data set small enough to train in milliseconds, and a script that trains them to be killed."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from slotworks.nn.noise import batch_noise
from slotworks.training import Adam, Run
from slotworks.types import DataConfig, Method, MethodConfig, SlotOutput


@dataclass(frozen=True)
class ToyConfig(MethodConfig):
    image_size: tuple[int, int] = (4, 4)
    width: int = 6
    noise: float = 0.1  # scale of the noise on the code
    dropout: float = 0.0
    loss_scale: float = 1.0
    explode_at: int | None = None  # step whose loss is infinite

    def build(self):
        return Toy(self)


class Toy(Method):
    """A linear autoencoder with a noisy code, a frozen part, a buffer and a convolution."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        size = 3 * config.image_size[0] * config.image_size[1]
        self.stem = nn.Conv2d(3, 3, 3, padding=1)
        self.down = nn.Linear(size, config.width)
        self.up = nn.Linear(config.width, size)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def param_groups(self):
        return {
            "encoder": [*self.stem.parameters(), *self.down.parameters()],
            "decoder": list(self.up.parameters()),
        }

    def large_parts(self) -> list[nn.Module]:
        return [self.up]

    def encode(self, image):
        code = self.down(self.stem(image).flatten(1))
        return SlotOutput(code[:, None], torch.ones(len(image), 1, 16))

    def loss(self, batch, step):
        image = batch["image"]
        self.calls += 1
        code = self.encode(image).slots[:, 0]
        code = code + self.config.noise * batch_noise(code.shape, code.device, torch.float32)
        code = nn.functional.dropout(code, self.config.dropout, self.training)
        recon = self.up(code)
        scale = self.config.loss_scale * (torch.inf if step == self.config.explode_at else 1.0)
        return {"recon": scale * (recon - image.flatten(1)).square().mean(), "size": code.square().mean()}


@dataclass(frozen=True)
class ToyData(DataConfig):
    length: int = 20

    def open(self, split="train"):
        return ToyImages(self.length)

    @property
    def name(self):
        return "toy"

    @property
    def size(self):
        return (4, 4)


class ToyImages:
    def __init__(self, length):
        pixels = np.random.default_rng(0).integers(0, 256, (length, 4, 4, 3), dtype=np.uint8)
        pixels[:, :, 2:] = pixels[:, :, :2]  # something to learn
        self.pixels = pixels

    def __len__(self):
        return len(self.pixels)

    def __getitems__(self, indices):
        return {"image": self.pixels[list(indices)], "index": np.array(indices)}


STEADY = ToyConfig(loss_weights={"size": 0.01})
"""All randomness through `batch_noise`, so that the batch may be split."""


def toy_run(**changes) -> Run:
    """Ten steps with every part of the state in use."""
    run = Run(
        method=replace(STEADY, dropout=0.1),
        data=ToyData(),
        steps=10,
        batch_size=8,
        optimizer=Adam(lr=0.01, warmup_steps=3, max_grad_norm=1.0, decay="linear"),
        ema_decay=0.9,
        log_every=1,
        eval_every=1000,
        save_every=5,
        tensorboard=False,
    )
    return replace(run, **changes)


def toy_metric(method, step):
    """An evaluator that draws random numbers, as evaluators do."""
    image = torch.rand(4, 3, 4, 4)
    return {"code": method.encode(image).slots.square().mean().item()}


def session_then_kill(folder: str) -> None:
    """Ctrl-C to the whole process group after step 3; then go on and die at once after step 7."""
    from slotworks.training import train

    run = toy_run(num_workers=1)

    def interrupt(step, values):
        if step == 3:
            os.killpg(0, signal.SIGINT)

    def kill(step, values):
        if step == 7:
            os.kill(os.getpid(), signal.SIGKILL)

    print("stopped at", train(run, folder, on_log=interrupt).step, flush=True)
    train(run, folder, on_log=kill)


def two_processes(folder: str) -> None:
    """As `torchrun` starts it: stop both processes after the first one was asked to, then go on to the end."""
    from slotworks.training import loop, train

    run = toy_run(method=STEADY, accumulate=2, eval_every=5)
    save = loop.save_checkpoint

    def slow_save(*arguments):  # as for a large model: the second process must not go on without the file
        time.sleep(0.5)
        save(*arguments)

    loop.save_checkpoint = slow_save

    def ask(step, values):  # called in the first process only
        if step == 3:
            signal.raise_signal(signal.SIGTERM)

    stopped = train(run, folder, on_log=ask, evaluators=toy_metric)
    result = train(run, folder, evaluators=toy_metric)
    code = result.metrics["eval/code"]
    Path(folder, f"rank{os.environ['RANK']}.txt").write_text(f"{stopped.step} {result.step} {code!r}")


def unlike_processes(folder: str) -> None:
    """The first process has a CPU with bfloat16 instructions, the second one has not."""
    from slotworks.training import numerics, train

    rank = os.environ["RANK"]
    numerics._cpu_kind = lambda: {"0": "cpu-bf16", "1": "cpu"}[rank]
    train(toy_run(precision="auto", channels_last="auto", steps=2), folder)


def in_processes(count: int, script: Path | str, words: Sequence[object], environment: dict[str, str]) -> list[str]:
    """Run a script in several processes, as torchrun starts them, on gloo; gives what each wrote to standard error."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    shared |= {"CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory() as folder:  # files: a full pipe would hold a process up, and the others with it
        said = [Path(folder, str(rank)) for rank in range(count)]
        processes = []
        try:
            for rank, path in enumerate(said):
                with path.open("w") as stream:
                    processes.append(
                        subprocess.Popen(
                            [sys.executable, str(script), *map(str, words)],
                            env=environment | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                            stderr=stream,
                        )
                    )
            while None in (ended := [process.poll() for process in processes]) and not any(ended):
                time.sleep(0.1)  # where one fails, the others would wait for it
        finally:
            for process in processes:
                process.kill()
                process.wait()
        errors = [path.read_text() for path in said]
    assert ended == [0] * count, "\n".join(errors)
    return errors


def sharing(folder: str) -> None:
    """Half of each weight in each process, until the middle; and BatchNorm over both."""
    from slotworks.nn.batch_norm import deviation_of_processes, share_batch_norm
    from slotworks.training import train

    train(toy_run(method=STEADY, accumulate=2, eval_every=5, shard=True), folder, evaluators=toy_metric, stop_after=5)
    rank = int(os.environ["RANK"])
    network, x = batch_normalised()
    share_batch_norm(network)
    out = network(x[rank::2])
    (out.square().mean() * out[:, 0].mean()).backward()
    found = {"out": out.detach(), "slope": network[0].weight.grad, "deviation": deviation_of_processes(x[rank::2])}
    save_file({**found, **network[1].state_dict()}, f"{folder}/norm{rank}.safetensors")


def batch_normalised() -> tuple[nn.Sequential, torch.Tensor]:
    """A convolution and BatchNorm, and a batch."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    for parameter in network.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator)
    return network, torch.rand(4, 3, 6, 6, generator=generator)


def compiled(folder: str) -> None:
    """With the loss compiled; prints how many graphs that took."""
    from slotworks.training import train

    train(toy_run(method=STEADY, compile=True), folder)
    print(torch._dynamo.utils.counters["stats"]["unique_graphs"])


if __name__ == "__main__":
    jobs = {"kill": session_then_kill, "ddp": two_processes, "unlike": unlike_processes, "compile": compiled}
    jobs["share"] = sharing
    jobs[sys.argv[1]](sys.argv[2])
