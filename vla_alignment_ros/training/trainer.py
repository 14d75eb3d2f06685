"""From a folder of episodes to a checkpoint folder.

Resume is exact: a run that was killed and resumed ends with the same weights as one that was
not, because batches, noise and augmentation depend only on (seed, step) and the rest is in the
saved state. Ctrl-C or SIGTERM finishes the step, saves, and stops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
import hashlib
import json
from pathlib import Path
import shlex
import signal
import subprocess
import sys
from types import FrameType
from typing import Any

from accelerate import Accelerator
import torch

from vla_alignment_ros.alignment.distributed import largest
from vla_alignment_ros.data.dataset import load_dataset
from vla_alignment_ros.data.lerobot.keys import LeRobotKeys
from vla_alignment_ros.embodiment import Embodiment, package_path
from vla_alignment_ros.encoders.language import build_tokenizer
from vla_alignment_ros.errors import CheckpointError, ConfigError
from vla_alignment_ros.observation import EE_POSITION, ObservationAssembler
from vla_alignment_ros.policy.checkpoint import Calibration, Checkpoint, save_checkpoint
from vla_alignment_ros.policy.model import ModelConfig, VlaModel
from vla_alignment_ros.policy.towers import describe_towers
from vla_alignment_ros.training.batches import augment, BatchStream
from vla_alignment_ros.training.config import TrainConfig
from vla_alignment_ros.training.finetune import Start
from vla_alignment_ros.training.optimization import (
    learning_rate,
    network_dtype,
    parameter_groups,
    renew_norms,
)
from vla_alignment_ros.training.progress import (
    CHECKPOINT_FOLDER,
    FAILED,
    FINISHED,
    STATE_FILE,
    STOPPED,
)
from vla_alignment_ros.training.run_log import RunLog
from vla_alignment_ros.training.state import load_state, save_state, WeightAverage
from vla_alignment_ros.training.statistics import data_statistics, spoken
from vla_alignment_ros.training.step import learn, require_parts
from vla_alignment_ros.training.validation import to_device, validate

VALIDATION_BATCHES = 24
NORM_BATCHES = 16  # for the statistics of the averaged model's batch norms


class Trainer:
    """One run: its model, its optimiser and its folder.

    Args:
        config: all settings.
        data: folders of episodes.
        embodiment: to read the bags with, instead of the one they name.
        out: the run's folder; gets `checkpoint/`, `state.safetensors`, `tensorboard/` and
            `progress.json`.
        start: checkpoint whose weights it begins with, instead of random ones.
        lerobot_keys: which feature is what in a LeRobot folder, where the names do not tell.

    Raises:
        DatasetError, BagError: the episodes cannot be used.
        ConfigError: the settings contradict each other or the machine.
        CheckpointError: `start` cannot be read, or does not fit episodes and settings.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: list[Path],
        out: Path,
        embodiment: Embodiment | None = None,
        start: Path | None = None,
        lerobot_keys: LeRobotKeys | None = None,
    ) -> None:
        self.config, self.out, self.data = config, out, data
        require_parts(config.optimizer.batch, config.optimizer.parts)
        self.accelerator = Accelerator(
            mixed_precision='no',  # ours is `precision`: a run has its own, not its process
            cpu=not torch.accelerator.is_available(),  # or processes would not find each other
        )
        self.device = self.accelerator.device
        dtype = network_dtype(config.precision)
        self.autocast = partial(
            torch.autocast, self.device.type, dtype, enabled=dtype != torch.float32
        )
        d, o = config.data, config.optimizer
        tokenizer = None
        if start is None:  # first, so that a model that is missing starts nothing
            self.pretrained, tokenizer = describe_towers(config.model)
        with self.accelerator.main_process_first():
            loaded = load_dataset(
                data,
                horizon=d.horizon,
                val_fraction=d.val_fraction,
                seed=d.split_seed,
                embodiment=embodiment,
                lerobot_keys=lerobot_keys,
                workers=d.workers,
                progress=self.accelerator.is_main_process,
            )
        if loaded.val is None:
            raise ConfigError(
                'validation needs at least two episodes and data.val_fraction above 0: '
                'the alignment gate is calibrated on them'
            )
        self.train_set, self.val_set = loaded.train, loaded.val
        texts = [e.instruction for e in self.train_set.episodes] + spoken(self.train_set)
        self.start = None if start is None else Start(start, self.train_set, texts)
        if self.start is not None:
            self.tokenizer, self.statistics = self.start.tokenizer, self.start.statistics
            self.pretrained = self.start.pretrained
        else:
            self.tokenizer = tokenizer or build_tokenizer(texts)
            self.statistics = data_statistics(self.train_set)
        torch.manual_seed(config.seed)
        self.model = VlaModel(self._model_config(), self.statistics)
        if self.start is not None:
            self.start.give(self.model)
        else:
            self.model.load_pretrained()
        self.model.alignment.bind(self.model.vision, self.model.language)
        if config.alignment.hard_negatives.weight:
            names = len(self.train_set.names) + 1 if d.labels else 1  # as Notes.holds has columns
            self.model.alignment.mine(names, **asdict(config.alignment.hard_negatives))
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        self.stream = BatchStream(
            self.train_set, self.tokenizer, o.batch, config.seed, rank, world,
            approach_share=o.approach_share, balance=d.balance, labels=d.labels,
            mislabel=d.mislabel, correction_weight=d.correction_weight,
        )  # fmt: skip
        validation_batch = min(o.batch, len(self.val_set))
        self.validation = BatchStream(self.val_set, self.tokenizer, validation_batch, config.seed)
        optimizer = torch.optim.AdamW(
            parameter_groups(self.model, o.weight_decay, o.tuned_share),
            lr=o.learning_rate,
            betas=(0.9, 0.98),
        )
        self.average = WeightAverage(self.model.to(self.device), o.ema)
        # the model itself is not: training.step exchanges gradients
        self.optimizer = self.accelerator.prepare(optimizer)
        self.step = 0
        self.metrics: dict[str, float] = {}
        self.calibration = Calibration()
        self._stop = False

    def _model_config(self) -> ModelConfig:
        assembler = ObservationAssembler(self.train_set.embodiment)
        names = assembler.state_names
        position = [names.index(n) for n in EE_POSITION if n in names]
        m, a = self.config.model, self.config.alignment
        return ModelConfig(
            cameras={c.name: (c.height, c.width) for c in self.train_set.embodiment.cameras},
            state_dim=len(names),
            position_index=tuple(position),
            vocabulary_size=self.tokenizer.get_vocab_size(),
            projections={
                c.name: c.calibration.projection(c.width, c.height).tolist()
                for c in self.train_set.embodiment.cameras
                if c.calibration is not None
            },
            horizon=self.config.data.horizon,
            alignment=a.strategy,
            alignment_settings={name: dict(values) for name, values in a.settings.items()},
            pretrained=self.pretrained,
            **asdict(m),
        )

    # -- one step -------------------------------------------------------------------------------

    def train_step(self, batch: dict[str, Any], step: int) -> dict[str, torch.Tensor]:
        """One optimiser step on a batch; losses and diagnostics as detached tensors."""
        o = self.config.optimizer
        generator = torch.Generator(device=self.device)
        rank = self.accelerator.process_index
        generator.manual_seed((self.config.seed * 1_000_003 + step) * 64 + rank)
        batch = augment(
            to_device(batch, self.device), o.light_jitter, o.word_dropout, generator, o.recolour
        )
        weights = {'keyframe': o.keyframe_weight, 'alignment': self.config.alignment.weight}
        rate = learning_rate(step, o.steps, o.warmup_steps, o.final_fraction) * o.learning_rate
        for group in self.optimizer.param_groups:
            group['lr'] = rate * group['share']
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses, diagnostics, total = learn(
            self.model, batch, weights, generator, o.parts,
            self.autocast, self.accelerator.backward,
        )  # fmt: skip
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), o.clip_norm)
        if not bool(torch.isfinite(norm)):
            raise ConfigError(
                f'the gradient of step {step} is not finite '
                f'({ {k: float(v) for k, v in losses.items()} }); lower the learning rate'
            )
        self.optimizer.step()
        self.model.alignment.after_step()
        self.average.update(self.model, step)
        log = {f'loss/{k}': v for k, v in losses.items()}
        log |= {f'diagnostics/{k}': v for k, v in diagnostics.items()}
        return log | {'loss/total': total, 'optimizer/gradient_norm': norm.detach(),
                      'optimizer/learning_rate': torch.tensor(rate)}  # fmt: skip

    # -- the run --------------------------------------------------------------------------------

    def run(
        self, resume: bool = False, on_progress: Callable[[dict[str, Any]], None] | None = None
    ) -> Path | None:
        """Train to the last step; the checkpoint's folder, or None when it was stopped before.

        Raises:
            CheckpointError: `resume` is asked and the state does not belong to this config.
        """
        o = self.config.optimizer
        if resume:
            self._resume()
        main = self.accelerator.is_main_process
        self.out.mkdir(parents=True, exist_ok=True)
        samples = o.batch * self.accelerator.num_processes
        log = RunLog(
            self.out, self.step, o.steps, samples, self.config.log_every, main, on_progress
        )
        for note in () if self.start is None else self.start.notes():
            log.say(note)
        state = FAILED
        handlers = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            for step, batch in self.stream.iterate(self.step, o.steps):
                values = self.train_step(batch, step)
                self.step = step + 1
                log.step(self.step, values)
                if self.step % self.config.validate_every == 0 and self.step < o.steps:
                    model = self._validate(log)
                    if main:
                        self.save_checkpoint(model)  # to look at while training goes on
                # a signal need not reach all processes, or not within one step
                stop = bool(largest(int(self._stop), self.device))
                if stop or self.step % self.config.save_every == 0 or self.step == o.steps:
                    self.save_state()
                if stop:
                    break
            for number, handler in handlers.items():
                signal.signal(number, handler)  # all is saved: from here on the hard way
            if self.step < o.steps:
                log.say(f'stopped at step {self.step}; go on with --resume')
                state = STOPPED
                return None
            model = self._validate(log)
            path = self.out / CHECKPOINT_FOLDER
            if main:
                self.save_checkpoint(model)
            self.accelerator.wait_for_everyone()
            state = FINISHED
            return path
        except KeyboardInterrupt:
            state = STOPPED
            raise
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            log.close(state)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop = True

    def _validate(self, log: RunLog) -> VlaModel:
        """Metrics and calibration of the averaged model; those of the main process count."""
        model = self.averaged_model()
        self.metrics, self.calibration = validate(
            model, self.validation, VALIDATION_BATCHES, self.config.seed, self.device
        )
        log.figures(self.metrics)
        if not self.calibration.fitted:
            log.say(
                'the alignment gate could not be calibrated and stays open: validation needs '
                'episodes of several instructions, whose scores the model tells apart'
            )
        return model

    # -- saving ---------------------------------------------------------------------------------

    def averaged_model(self) -> VlaModel:
        """A copy of the model with the averaged weights, in eval mode."""
        model = VlaModel(self.model.config, self.statistics).to(self.device).eval()
        model.load_state_dict(self.average.tensors)
        renew_norms(
            model.vision,
            (to_device(self.stream.at(s)['images'], self.device) for s in range(NORM_BATCHES)),
        )
        return model

    def save_state(self) -> None:
        """Write what a resume needs."""
        if self.accelerator.is_main_process:
            meta = {
                'config': self.config.to_dict(),
                'data': self.data_digest(),
                'start': None if self.start is None else self.start.digest,
                'threads': torch.get_num_threads(),
                'processes': self.accelerator.num_processes,
            }
            path = self.out / STATE_FILE
            save_state(path, self.step, self.model, self.average, self.optimizer, meta)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        path = self.out / STATE_FILE
        if not path.is_file():
            return
        meta = load_state(path, self.model, self.average, self.optimizer)
        ours = json.loads(json.dumps(self.config.to_dict()))
        if meta['config'] != ours:
            differing = [k for k in ours if ours[k] != meta['config'].get(k)]
            raise CheckpointError(
                f'{path} was trained with other settings ({", ".join(differing)}); '
                f'use the same ones or another --out'
            )
        if meta.get('start') != (None if self.start is None else self.start.digest):
            raise CheckpointError(
                f'{path} was begun with other weights: go on with the same --from-checkpoint'
            )
        processes = self.accelerator.num_processes
        if meta.get('processes', processes) != processes:
            raise CheckpointError(
                f'{path} was trained by {meta["processes"]} processes, which decide what each '
                f'step sees; go on with as many, not {processes}'
            )
        if meta.get('data', self.data_digest()) != self.data_digest():
            raise CheckpointError(
                f'the episodes have changed since {path} was saved; '
                f'start anew with another --out, or restore them'
            )
        self.step = int(meta['step'])

    def data_digest(self) -> str:
        """SHA-256 of what the data decide: order of samples, words and normalisation."""
        episodes = [(e.name, e.instruction, e.start, e.stop) for e in self.train_set.episodes]
        facts = [episodes, self.tokenizer.to_str(), asdict(self.statistics)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def save_checkpoint(self, model: VlaModel) -> Path:
        """Write the averaged model, with what was found out about it, as a checkpoint folder."""
        training = {
            'command': shlex.join(['vla_train', *sys.argv[1:]]),
            'config': self.config.to_dict(),
            'git_revision': git_revision(),
            'torch': torch.__version__,
            'steps': self.step,
            'episodes': len(self.train_set.episodes),
            'samples': len(self.train_set),
            'corrections': int(self.train_set.corrections().sum()),
            'start': None if self.start is None else self.start.to_dict(),
        }
        checkpoint = Checkpoint(
            model,
            self.tokenizer,
            self.train_set.embodiment,
            self.statistics,
            self.calibration,
            training,
            dict(self.metrics),
        )
        return save_checkpoint(checkpoint, self.out / CHECKPOINT_FOLDER)


def git_revision() -> str:
    """Commit of this package's source checkout, '+' behind it if files differ; or 'unknown'."""
    root = package_path()
    if not (root / '.git').exists():
        return 'unknown'  # installed: a repository around it would be somebody else's
    command = ['git', 'describe', '--always', '--abbrev=40', '--exclude=*', '--dirty=+']
    try:
        result = subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return 'unknown'
    return result.stdout.strip()
