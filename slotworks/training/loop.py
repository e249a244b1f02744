"""The training loop: `train(run, folder)` carries out a run and goes on by itself where an earlier session stopped.

Read `train` from top to bottom: set up, go on from a checkpoint, one update per step, log, save, evaluate. It knows the
contract (`slotworks.types`), never a method's name. Every random number is a function of the run's seed and the step,
so evaluating more often changes nothing, and a run that was killed ends with the same weights as one that was not.
"""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from slotworks.files import locked, remove_partial, same_file, write_text
from slotworks.nn.batch_norm import share_batch_norm
from slotworks.nn.noise import shared_noise
from slotworks.training.callbacks import Callback, Result
from slotworks.training.checkpoint import (
    LAST,
    Checkpoint,
    fit,
    load_method,
    optimizer_state,
    restore_optimizer,
    save_checkpoint,
)
from slotworks.training.devices import Reading, clip, open_fabric, scale_adapts, shared_processor
from slotworks.training.ema import EMA
from slotworks.training.folder import device_name, read_folder, write_folder
from slotworks.training.interrupt import Interrupt
from slotworks.training.logs import Display, Log, cut_back
from slotworks.training.numerics import numerics_notes, settle_run
from slotworks.training.optimizer import build_optimizer, set_learning_rates
from slotworks.training.order import BatchOrder, read_batches
from slotworks.training.run import Run, check_objects
from slotworks.training.seeds import seed_for, set_seed
from slotworks.training.shard import check_shard, gather, whole
from slotworks.types import Batch, Dataset, Method, RawBatch, UserError, all_finite, to_batch

Evaluator = Callable[[Method, int], dict[str, float]]
"""Takes the method in evaluation mode and the number of finished steps; returns metrics by name."""


FITTED = 1024
"""Training samples that `Method.fit` is shown, at most: 262,144 patches of 16 x 16, of which 384 directions are
taken."""


class Diverged(UserError):
    """The loss or its gradient is no longer finite."""


class TrainStep(nn.Module):
    """Calls `method.loss` in its `forward`: the only call through which DDP joins gradients of several processes."""

    def __init__(self, method: Method, run: Run, device: torch.device):
        super().__init__()
        self.method, self.device = method, device
        self.augment = run.data.augment
        self.layout = torch.channels_last if run.channels_last else torch.contiguous_format
        self.loss = torch.compile(method.loss) if run.compile else method.loss

    def forward(self, raw: RawBatch, step: int) -> dict[str, Tensor]:
        """Raw loss terms. The batch becomes float32 in here, where mixed precision does not round the images."""
        batch = self.augment(to_batch(raw, self.device))
        if "image" in batch and batch["image"].ndim == 4:
            batch["image"] = batch["image"].contiguous(memory_format=self.layout)
        return self.loss(batch, step)


def set_up(
    run: Run,
    fabric: Fabric,
    load: Callable[[str], Method] | None,
    checkpoint: Checkpoint | None = None,
    source: str = "",
) -> tuple[Method, Any, Any]:
    """A method with the weights it starts from, what calls its loss on the device, and the optimiser.

    `load` gives the method of an earlier run that this one builds on; None leaves fresh weights in its place. A
    checkpoint, read from the file `source`, is gone on from.
    """
    set_seed(seed_for("weights", run.seed), fabric.device)
    method = run.method.build()
    if load is not None:
        method.prepare(load)
    if run.channels_last:
        method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if checkpoint:
        fit(method, checkpoint.model, source=source)
    if fabric.world_size > 1:
        share_batch_norm(method)
    if run.shard:
        check_shard(method, run.precision)
        model = fabric.setup_module(TrainStep(method, run, fabric.device))
        optimizer: Any = fabric.setup_optimizers(build_optimizer(method, run))  # of weights that are shared by now
    else:
        model, optimizer = fabric.setup(TrainStep(method, run, fabric.device), build_optimizer(method, run))
    if checkpoint:
        restore_optimizer(method, optimizer.optimizer, checkpoint.optimizer, source=source)
        if checkpoint.scaler:  # steps in another precision leave none
            fabric.strategy.precision.load_state_dict(checkpoint.scaler)
    return method, model, optimizer


def train(
    run: Run,
    folder: Path | str,
    *,
    evaluators: Evaluator | Sequence[Evaluator] = (),
    callbacks: Sequence[Callback] = (),
    on_log: Callable[[int, dict[str, float]], None] | None = None,
    on_eval: Callable[[int, dict[str, float]], None] | None = None,
    fabric: Fabric | None = None,
    device: str | None = None,
    stop_after: int | None = None,
) -> Result:
    """Train until `run.steps` and write the run folder; goes on from `checkpoints/last.safetensors` if there is one.

    Args:
        run: what to train.
        folder: the run folder; made if missing.
        evaluators: called every `run.eval_every` steps and at the end, in the first process only, without gradients,
            with the averaged weights if the run keeps an average.
        callbacks: told of every step, evaluation and checkpoint and of the end, in the first process only.
        on_log: called with the step and the numbers of each line of metrics.jsonl about training.
        on_eval: called with the step and the numbers of each evaluation.
        fabric: where to train, already launched; by default one device, or what `torchrun` started.
        device: which one that is, such as cpu, cuda:1 or mps; by default the first GPU if there is one.
        stop_after: stop politely after this many steps of this session.

    Returns:
        Where the session ended. Ctrl-C and SIGTERM save and return; a second Ctrl-C ends at once.

    Raises:
        UserError: if the data do not fit the method, the folder belongs to a different run, its checkpoint is damaged
            or the disk is full.
        Diverged: if the loss or the gradient is not finite; the last checkpoint holds the last good state.
    """
    folder = Path(folder)
    if run.steps == 0:
        raise UserError("This recipe trains nothing (steps is 0); give its name to `slotworks evaluate`.")
    check_objects(run)
    run.data.check_method(run.method)
    fabric = fabric or open_fabric(run, device=device)
    run = settle_run(run, fabric)
    evaluators = [evaluators] if callable(evaluators) else list(evaluators)
    world = fabric.world_size
    if run.batch_size // run.accumulate % world:
        raise UserError(
            f"batch_size is {run.batch_size} in {run.accumulate} micro-batches, which {world} processes cannot share "
            "equally; choose a multiple."
        )
    with _held(folder, fabric), shared_processor(fabric, folder) as note:
        notes = [note] if note else []
        return _train(run, folder, evaluators, callbacks, on_log, on_eval, fabric, stop_after, notes)


def _train(
    run: Run,
    folder: Path,
    evaluators: Sequence[Evaluator],
    callbacks: Sequence[Callback],
    on_log: Callable[[int, dict[str, float]], None] | None,
    on_eval: Callable[[int, dict[str, float]], None] | None,
    fabric: Fabric,
    stop_after: int | None,
    notes: Sequence[str],
) -> Result:
    """`train` in a folder that no other command uses meanwhile."""
    first, world = fabric.is_global_zero, fabric.world_size
    callbacks = callbacks if first else ()
    checkpoint = read_folder(run, folder)  # every process reads and checks before the first one writes
    start = checkpoint.step if checkpoint else 0
    if fabric.broadcast(start) != start:
        raise UserError(f"Processes see different files in {folder}; give a folder that all machines share.")

    # ---- method, optimiser, average --------------------------------------------------------------------------------
    source = str(folder / LAST)
    method, model, optimizer = set_up(run, fabric, load_method, checkpoint, source)
    ema = EMA(method, run.ema_decay) if run.ema_decay else None
    if checkpoint and ema:
        ema.load(checkpoint.ema, source)

    # ---- data ------------------------------------------------------------------------------------------------------
    dataset = run.data.open("train")
    if len(dataset) == 0:
        raise UserError(f"The training split of {run.data.name} is empty.")
    if not checkpoint:
        with torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []), torch.no_grad():
            set_seed(seed_for("noise", run.seed), fabric.device)
            method.fit(_some_batches(run, dataset, fabric.device))
    renewed = getattr(dataset, "renewed", False)
    order = BatchOrder(len(dataset), run, start=start, rank=fabric.global_rank, world_size=world, renewed=renewed)
    readers = read_batches(dataset, order, num_workers=run.num_workers, pin_memory=fabric.device.type == "cuda")

    # ---- run folder ------------------------------------------------------------------------------------------------
    done, seconds, metrics, log = start, checkpoint.seconds if checkpoint else 0.0, {}, None
    with ExitStack() as stack:
        batches = stack.enter_context(readers)  # before there are threads: it forks
        if first:
            remove_partial(folder / LAST.parent)
            write_folder(run, folder, device=device_name(fabric.device), world_size=world, step=start)
            metrics = cut_back(folder, start)
            log = Log(run, folder, step=start)
            stack.callback(log.close)
        metrics = fabric.broadcast(metrics)
        interrupt = stack.enter_context(Interrupt())
        display = stack.enter_context(Display(run, folder, step=start, device=fabric.device, quiet=not first))
        for note in (*notes, *numerics_notes(run, checkpoint, fabric.device)):
            display.say(note)

        def save() -> None:
            weights = {}
            for name, value in method.state_dict().items():
                value = whole(value)
                if not all_finite(value):  # even after a finite gradient; the last checkpoint stays the last good one
                    raise Diverged(
                        f"After step {done} the weight {name} is no longer finite. {_kept(folder)} Try a lower "
                        "optimizer.lr, more warmup_steps or a max_grad_norm."
                    )
                weights |= {name: value} if first else {}
            average = gather(ema.average if ema else {}, keep=first)
            moments = gather(optimizer_state(method, optimizer.optimizer), keep=first)
            if first:
                state = Checkpoint(
                    run=run,
                    step=done,
                    seconds=seconds,
                    model=weights,
                    ema=average,
                    optimizer=moments,
                    scaler=fabric.strategy.precision.state_dict(),
                )
                path = folder / LAST
                if run.keep_every and done % run.keep_every == 0:
                    path = folder / LAST.parent / f"step_{done:07d}.safetensors"
                    save_checkpoint(state, path)  # first: who goes on from an older `last` comes by here again
                    same_file(path, folder / LAST)
                else:
                    save_checkpoint(state, path)
                for callback in callbacks:
                    callback.on_checkpoint(done, path)

        def evaluate() -> None:
            nonlocal metrics
            shared = run.shard and world > 1
            measured, average = (_gathered(method, ema, run, fabric), None) if shared else (method, ema)
            if log and evaluators:
                set_seed(seed_for("evaluation", run.seed), fabric.device)  # the same noise at every evaluation
                values = run_evaluators(measured, average, evaluators, done)
                log.write(done, seconds, values)
                display.evaluation(done, values)
                if on_eval:
                    on_eval(done, values)
                for callback in callbacks:
                    callback.on_evaluation(done, dict(values))
                metrics = {"step": done, **values}
            metrics = fabric.broadcast(metrics)  # the other processes wait here

        if _due(done, run.eval_every, run.steps) and metrics.get("step") != done:
            evaluate()  # an earlier session was killed between saving and evaluating

        def check(step: int, reading: Reading) -> dict[str, float]:
            """The losses of a step and the norm of its gradient, which have to be finite."""
            *values, _, grad_norm = reading.numbers()
            losses = dict(zip(sums, values, strict=True))
            total = sum(_weight(run, name) * value for name, value in losses.items())
            if not math.isfinite(total) or not (math.isfinite(grad_norm) or scale_adapts(fabric)):
                raise _diverged(folder, step, losses, grad_norm, order.batch(step), first)
            return {f"loss/{name}": value for name, value in losses.items()} | {"total": total, "grad_norm": grad_norm}

        # ---- the loop ----------------------------------------------------------------------------------------------
        stop = min(run.steps, start + stop_after) if stop_after is not None else run.steps
        mark_step, mark_seconds, tick, stopped_by = done, seconds, time.perf_counter(), 0
        watched = fabric.broadcast(bool(callbacks)) or run.precision == "16"  # whose loss scale is adapted on the CPU
        sums: dict[str, Tensor] = {}
        reading: Reading | None = None
        checked = done  # the steps whose numbers are known to be finite
        now: dict[str, float] = {}
        while done < stop:
            step = done  # finished updates so far, as in the papers' schedules
            lr = set_learning_rates(optimizer, run, step)
            sums = {}
            for micro in range(run.accumulate):
                raw = {name: value.numpy() for name, value in next(batches).items()}
                part, parts = micro * world + fabric.global_rank, run.accumulate * world
                set_seed(seed_for("dropout", run.seed, step, part), fabric.device)  # for all noise but `batch_noise`'s
                with (
                    shared_noise(seed_for("noise", run.seed, step), fabric.device, part=part, parts=parts),
                    fabric.no_backward_sync(model, enabled=micro + 1 < run.accumulate),
                ):
                    terms = model(raw, step)
                    weighted = {name: _weight(run, name) * term for name, term in terms.items()}
                    total = torch.stack(list(weighted.values())).sum() / run.accumulate
                    fabric.backward(total)
                for name, term in terms.items():
                    sums[name] = sums.get(name, 0) + term.detach().float() / run.accumulate
            if step == start:
                _check_weights(run, sums)

            # Numbers are asked for where somebody wants to see them, otherwise a step later, so that a GPU never waits
            # for this loop. Every process must see the same numbers and the same wish to stop, or one would wait for
            # the others: what another process wishes may be known a step later, too.
            wish = torch.full((1,), float(bool(interrupt.asked)), device=fabric.device)
            means = fabric.all_reduce(torch.cat([torch.stack(list(sums.values())), wish]))
            assert isinstance(means, Tensor)
            grad_norm = clip(fabric, model, optimizer, run)
            before, reading = reading, Reading(torch.cat([means, grad_norm.float()[None]]))
            logged = _due(done + 1, run.log_every, run.steps) or done == 0
            saved = done + 1 == stop or any(
                every and (done + 1) % every == 0 for every in (run.save_every, run.keep_every)
            )
            evaluated = _due(done + 1, run.eval_every, run.steps)
            seen = logged or saved or evaluated or watched
            known = reading if seen else before
            asked = bool(interrupt.asked) if world == 1 else known is not None and known.numbers()[-2] > 0
            saved, evaluated = saved or asked, evaluated and not asked
            if before is not None and checked < done:
                check(step - 1, before)
            if seen or saved:
                now, checked = check(step, reading) | {"lr": lr}, done + 1
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if ema:
                ema.update(step)
            done += 1
            seconds, tick = seconds + time.perf_counter() - tick, time.perf_counter()

            # ---- log, save, evaluate -------------------------------------------------------------------------------
            display.advance(done, seconds)
            stop, stopped_by = (done, interrupt.asked or signal.SIGINT) if asked else (stop, 0)
            for callback in callbacks:
                callback.on_step(done, dict(now))
            if log and logged:
                speed = (done - mark_step) / max(seconds - mark_seconds, 1e-9)
                mark_step, mark_seconds = done, seconds
                weighted = {f"weighted/{name}": _weight(run, name) * now[f"loss/{name}"] for name in sums}
                values = {**now, **weighted, "images_per_second": speed * run.batch_size}
                log.write(done, seconds, values)
                display.losses(done, now["total"], speed)
                if on_log:
                    on_log(done, values)
            if saved:
                save()  # before the evaluation: if that fails, the training is kept
            if evaluated:
                evaluate()
            tick = time.perf_counter()  # saving and evaluating are not training time
        if done < run.steps:
            display.say(f"Stopped at step {done} of {run.steps}; the same command goes on from there.")
    fabric.barrier()  # when any process returns, the folder is complete
    metrics = {name: value for name, value in metrics.items() if name != "step"}
    result = Result(folder, done, done == run.steps, seconds, metrics, int(stopped_by) if done < run.steps else 0)
    for callback in callbacks:
        callback.on_end(result)
    return result


@torch.no_grad()
def run_evaluators(method: Method, ema: EMA | None, evaluators: Sequence[Evaluator], step: int) -> dict[str, float]:
    """Metrics of all evaluators under `eval/...`, with the averaged weights if there are any, in float32."""
    values: dict[str, float] = {}
    method.eval()
    with ema.applied() if ema else nullcontext():
        for evaluator in evaluators:
            found = evaluator(method, step).items()
            values |= {name if name.startswith("eval/") else f"eval/{name}": float(value) for name, value in found}
    method.train()
    return values


def _gathered(method: Method, ema: EMA | None, run: Run, fabric: Fabric) -> Method:
    """In the first process a copy of a method whose weights are shared, averaged ones where there are; every process
    has to ask."""
    weights = gather(method.state_dict() | (ema.average if ema else {}), keep=fabric.is_global_zero)
    if not fabric.is_global_zero:
        return method
    copy = run.method.build()
    fit(copy, weights, source="this run")
    return copy.to(fabric.device)


def _some_batches(run: Run, dataset: Dataset, device: torch.device) -> Iterator[Batch]:
    """Training samples spread over the whole data set, as a step sees them, for `Method.fit`."""
    rows = [int(row) for row in np.linspace(0, len(dataset) - 1, min(FITTED, len(dataset)))]
    size = run.batch_size // run.accumulate
    for start in range(0, len(rows), size):
        yield run.data.augment(to_batch(dataset.__getitems__(rows[start : start + size]), device))


@contextmanager
def _held(folder: Path, fabric: Fabric) -> Iterator[None]:
    """The folder locked by the first process before any process reads it; a refusal ends all of them.

    Raises:
        UserError: if another command holds it, or the disk refuses.
    """
    with ExitStack() as stack:
        refusal = ""
        if fabric.is_global_zero:
            try:
                stack.enter_context(locked(folder))
            except UserError as error:
                refusal = str(error)
        if refusal := fabric.broadcast(refusal):
            raise UserError(refusal)
        yield


def _due(step: int, every: int, last: int) -> bool:
    return step > 0 and (step % every == 0 or step == last)


def _weight(run: Run, name: str) -> float:
    return run.method.loss_weights.get(name, 1.0)


def _check_weights(run: Run, terms: dict[str, Tensor]) -> None:
    unknown = run.method.loss_weights.keys() - terms.keys()
    if unknown:
        raise UserError(f"method.loss_weights names {min(unknown)}, but the loss terms are {', '.join(terms)}.")


def _diverged(
    folder: Path, step: int, losses: dict[str, float], grad_norm: float, batch: list[int], first: bool
) -> Diverged:
    """Write the samples of the fatal batch beside the run, in the first process; the error."""
    if first:
        record = {"step": step, "indices": batch, "losses": {n: repr(v) for n, v in losses.items()}}
        write_text(folder / "nan_batch.json", json.dumps(record | {"grad_norm": repr(grad_norm)}) + "\n")
    found = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
    return Diverged(
        f"Step {step} gave a loss or gradient that is not finite ({found}, gradient norm {grad_norm:.4g}); its samples "
        f"are in nan_batch.json. {_kept(folder)} Try a lower optimizer.lr, more warmup_steps or a max_grad_norm."
    )


def _kept(folder: Path) -> str:
    return f"The last good state is in {LAST}." if (folder / LAST).exists() else "Nothing had been saved yet."
