"""P13: hardest negatives of a batch in a bank, against a flat index of faiss."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bench.results import BenchError, BenchSettings, Row
from bench.timing import seconds, take_turns
from vla_alignment_ros.alignment.bank import HardNegativeMiner

QUERIES, KEYS, WIDTH, NEGATIVES, SENTENCES = 1024, 65_536, 128, 10, 50


def run(settings: BenchSettings) -> Row:
    """The same rows on both sides; only ours has to leave out those of the same sentence."""
    try:
        import faiss
    except ImportError as error:
        raise BenchError('P13 compares with faiss: pip install faiss-cpu') from error
    torch.set_num_threads(settings.threads)
    faiss.omp_set_num_threads(settings.threads)
    generator = torch.Generator().manual_seed(0)
    sizes = settings.size(QUERIES, 16), settings.size(KEYS, 512)
    queries, keys = (
        F.normalize(torch.randn(size, WIDTH, generator=generator), dim=-1) for size in sizes
    )
    query_ids, key_ids = (torch.randint(SENTENCES, (n,), generator=generator) for n in sizes)
    index = faiss.IndexFlatIP(WIDTH)
    index.add(keys.numpy())
    array = queries.numpy()
    miner = HardNegativeMiner(NEGATIVES)
    _check(index.search(array, NEGATIVES)[1], miner, queries, keys)

    def plain() -> None:
        same = query_ids.unsqueeze(1) == key_ids.unsqueeze(0)
        (queries @ keys.T).masked_fill_(same, float('-inf')).topk(NEGATIVES)

    samples = take_turns(
        {
            'ours': seconds(lambda: miner.mine(queries, query_ids, keys, key_ids)),
            'faiss': seconds(lambda: index.search(array, NEGATIVES)),
            'plain': seconds(plain),
        },
        rounds=settings.size(31, 1),
    )
    ours_ms, faiss_ms, plain_ms = (samples[n].p50 * 1e3 for n in ('ours', 'faiss', 'plain'))
    return Row(
        key='P13',
        title=f'{NEGATIVES} negatives for {sizes[0]} rows among {sizes[1]}',
        unit='ms',
        ours=ours_ms,
        baseline=faiss_ms,
        goal=1.2,
        ours_is='`HardNegativeMiner.mine` on rows as a bank holds them, without those of the same '
        'sentence',
        baseline_is='`faiss.IndexFlatIP.search` on an index that was built before, nothing left '
        'out',
        figures={
            'matrix of all pairs, masked, and topk, ms': plain_ms,
            'ratio of the calmest turns (p10)': samples['ours'].percentile(10)
            / samples['faiss'].percentile(10),
        },
    )


def _check(
    expected: object, miner: HardNegativeMiner, queries: torch.Tensor, keys: torch.Tensor
) -> None:
    """Both find the same rows when nothing is to be left out."""
    other = torch.zeros(len(keys), dtype=torch.int64)
    found = miner.mine(queries, torch.ones(len(queries), dtype=torch.int64), keys, other)
    same = (found.index == torch.as_tensor(expected)).float().mean()
    if same < 0.99:  # near ties may change places
        raise BenchError(f'P13: only {same:.1%} of the rows found are those that faiss found')
