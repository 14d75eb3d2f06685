"""One process of a run that several share, started by torchrun for test_training_trainer.

Trains to the end, and once more with a stop in the middle; writes the states of this process.
"""

from __future__ import annotations

import json
from pathlib import Path
import signal
import sys

from safetensors.torch import save_file
import torch

from vla_alignment_ros.training.config import TrainConfig
from vla_alignment_ros.training.trainer import Trainer


def main(config: TrainConfig, demos: Path, out: Path) -> None:
    torch.set_num_threads(1)
    whole = Trainer(config, [demos], out / 'whole')
    whole.run()
    part = Trainer(config, [demos], out / 'part')
    # of the main process alone: the other has to hear of it
    stopped = part.run(on_progress=lambda n: n['step'] == 4 and signal.raise_signal(signal.SIGINT))
    assert stopped is None
    assert part.step == 4
    resumed = Trainer(config, [demos], out / 'part')
    resumed.run(resume=True)
    rank = whole.accelerator.process_index
    for name, trainer in (('whole', whole), ('part', resumed)):
        found = {f'model.{k}': v for k, v in trainer.model.state_dict().items()}
        found |= {f'average.{k}': v for k, v in trainer.average.tensors.items()}
        plain = torch.contiguous_format
        found = {k: v.detach().clone(memory_format=plain) for k, v in found.items()}
        save_file(found, out / f'{name}.{rank}.safetensors')


if __name__ == '__main__':
    main(TrainConfig.from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]))
