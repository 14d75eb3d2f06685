"""What has to be known of a split before a model can be made for it."""

from __future__ import annotations

from vla_alignment_ros.data.dataset import DemonstrationDataset
from vla_alignment_ros.policy.normalizer import DataStatistics


def spoken(dataset: DemonstrationDataset) -> list[str]:
    """Every sentence that occurs in the split's samples (an instruction can change mid-way)."""
    used = sorted(set(dataset.cache.arrays['instruction'][dataset.rows].tolist()))
    return [dataset.instructions[i] for i in used]


def data_statistics(dataset: DemonstrationDataset) -> DataStatistics:
    """Normaliser statistics of a split; the gripper is left untouched."""
    s = dataset.statistics()
    names = dataset.embodiment.action.names
    batch = dataset.get_batch(range(0, len(dataset), max(1, len(dataset) // 20000)))
    keyframes = batch.get('keyframe_position')
    extra = {}
    if keyframes is not None:
        extra['keyframe_mean'] = keyframes.mean(0).tolist()
        extra['keyframe_std'] = keyframes.std(0).tolist()
    return DataStatistics(
        state_mean=list(s.state_mean),
        state_std=list(s.state_std),
        action_low=list(s.action_q01),
        action_high=list(s.action_q99),
        passthrough=[name == 'gripper' for name in names],
        **extra,
    )
