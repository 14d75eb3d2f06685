"""From labelled pixels to labelled image cells, and from names to words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

from vla_alignment_ros.alignment.base import Labels
from vla_alignment_ros.encoders.vision import CameraTokens


def cell_labels(
    pixels: Mapping[str, torch.Tensor], layout: Sequence[CameraTokens]
) -> torch.Tensor | None:
    """What each image token shows: camera -> (B, rows, columns) ids → (B, N) int64.

    A cell shows the name that most of its labelled pixels show, so that a small thing is not
    lost to the table around it; 0 where all of them show nothing, −1 where one is not known. A
    camera without labels is not known. None: no camera has any.
    """
    if not pixels:
        return None
    parts = []
    some = next(iter(pixels.values()))
    for camera in layout:
        ids = pixels.get(camera.name)
        if ids is None:
            parts.append(some.new_full((len(some), camera.rows * camera.columns), -1))
            continue
        # a whole number of labels per cell
        height = camera.rows * max(1, round(ids.shape[1] / camera.rows))
        width = camera.columns * max(1, round(ids.shape[2] / camera.columns))
        if (height, width) != tuple(ids.shape[1:]):
            ids = F.interpolate(ids.unsqueeze(1).float(), (height, width), mode='nearest')
            ids = ids.squeeze(1).long()
        grid = ids.unfold(1, height // camera.rows, height // camera.rows)
        grid = grid.unfold(2, width // camera.columns, width // camera.columns)
        votes = grid.flatten(3).flatten(1, 2)  # (B, n, votes)
        alike = (votes.unsqueeze(-1) == votes.unsqueeze(-2)).sum(-1)  # (B, n, votes)
        best = (alike * (votes > 0)).argmax(-1, keepdim=True)
        found = votes.gather(-1, best).squeeze(-1)
        found = torch.where((votes > 0).any(-1), found, torch.zeros_like(found))
        parts.append(torch.where((votes < 0).any(-1), torch.full_like(found, -1), found))
    return torch.cat(parts, dim=1)


def known_present(
    referent: torch.Tensor, holds: torch.Tensor, referent_said: torch.Tensor, named: torch.Tensor
) -> torch.Tensor:
    """Which sentence names what is known to be in which scene: (B, M) bool.

    Args:
        referent: (B,) id of what each scene's own sentence names.
        holds: (B, K) bool, which names are known to be in the scene.
        referent_said: (M,) id of what each sentence names.
        named: (M,) int64 id in K of what each sentence names; below 1: not known.
    """
    same = referent.unsqueeze(1) == referent_said.unsqueeze(0)
    known = (named > 0).unsqueeze(0)
    return same | (holds[:, named.clamp_min(0)] & known)


def present_in_batch(
    group: torch.Tensor, referent: torch.Tensor, holds: torch.Tensor, named: torch.Tensor
) -> torch.Tensor:
    """`known_present` of every row's scene and every row's sentence: (scene, sentence) bool.

    group: (B,) id of each sentence's paraphrase group: those that mean the same name the same,
    noted or not.
    """
    alike = group.unsqueeze(1) == group.unsqueeze(0)
    return alike | known_present(referent, holds, referent, named)


def untold_contrasts(names: torch.Tensor) -> torch.Tensor:
    """Which words the data cannot rule out for which names, although they never stand in them.

    Where no red ball was ever shown, everything red is no ball, and a network that learns "red,
    so no ball" is right on all of its data and wrong on the first red ball. So "ball" is no
    negative of a red cube: with the word of the same kind exchanged, "red ball" is not among the
    names. "Ball" is a negative of a green cube, since green balls are known. Words are of one
    kind if they stand beside a common word.

    Args:
        names: (K, W) word ids, padded with 0; row 0 is empty.

    Returns:
        (P, 2) int64 pairs (name, word id).
    """
    sets = [frozenset(int(i) for i in row if i) for row in names]
    known = set(sets)
    beside: dict[int, set[int]] = {}
    for name in sets:
        for word in name:
            beside.setdefault(word, set()).update(name - {word})
    pairs = [
        (index, word)
        for index, name in enumerate(sets)
        for word in beside
        if word not in name
        and any(beside[u] & beside[word] and (name - {u}) | {word} not in known for u in name)
    ]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def words_told(labels: Labels, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For words (V,) ids: (K, V) bool which stand in which name, and for which that is known.

    `words` may have any shape; it follows K.
    """
    flat = words.flatten()
    member = ((labels.names.unsqueeze(-1) == flat) & (flat != 0)).any(1)
    told = torch.ones_like(member)
    name, word = labels.untold.T
    row, column = (word.unsqueeze(1) == flat).nonzero(as_tuple=True)
    told[name[row], column] = False
    return member.view(-1, *words.shape), told.view(-1, *words.shape)
