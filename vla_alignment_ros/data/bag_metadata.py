"""Changes what a finished bag says about itself; its messages are never opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from vla_alignment_ros.data.bag_format import check_depth, METADATA, PREFIX, SAFE_LOADER
from vla_alignment_ros.data.files import write_file
from vla_alignment_ros.errors import BagError

_TEXT, _MAPPING = 'tag:yaml.org,2002:str', 'tag:yaml.org,2002:map'


def rewrite_custom_data(path: Path, changes: Mapping[str, str | None]) -> None:
    """Set custom data of a finished bag (None removes it): whole or not at all.

    Everything else in its metadata stays as it is written there.

    Args:
        path: the bag's folder.
        changes: names without their `vla.` prefix.

    Raises:
        BagError: the metadata is damaged, or cannot be written.
    """
    file = path / METADATA
    try:
        text = file.read_text(encoding='utf-8')
        check_depth(text)
        # nodes, not values: what is not changed means the same in every version of YAML
        document = yaml.compose(text, Loader=SAFE_LOADER)
        bag = _mapping_under(document, 'rosbag2_bagfile_information')
        _set_texts(bag, 'custom_data', {f'{PREFIX}{k}': v for k, v in changes.items()})
        written = yaml.serialize(document, Dumper=yaml.SafeDumper, allow_unicode=True)
        write_file(file, written.encode('utf-8'))
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise BagError(f'{file} cannot be changed: {error}') from error


def _mapping_under(node: yaml.Node | None, key: str) -> yaml.MappingNode:
    for name, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if name.value == key and isinstance(value, yaml.MappingNode):
            return value
    raise ValueError(f'it holds no mapping {key!r}')


def _set_texts(mapping: yaml.MappingNode, key: str, texts: Mapping[str, str | None]) -> None:
    """Set texts in the mapping under a key, which is made where there is none."""
    place = next((i for i, (k, _) in enumerate(mapping.value) if k.value == key), None)
    before = None if place is None else mapping.value[place][1]
    items = before.value if isinstance(before, yaml.MappingNode) else []
    items = [(name, value) for name, value in items if name.value not in texts]
    items += [(_scalar(k, None), _scalar(v, '"')) for k, v in texts.items() if v is not None]
    entry = (_scalar(key, None), yaml.MappingNode(_MAPPING, items))
    if place is None:
        mapping.value.append(entry)
    else:
        mapping.value[place] = entry


def _scalar(text: str, style: str | None) -> yaml.ScalarNode:
    return yaml.ScalarNode(_TEXT, text, style=style)  # in quotes nobody takes it for a number
