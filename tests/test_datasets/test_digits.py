"""The embedded digits: determinism, no leak from training to judging, repair, and loading."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from PIL import Image
from pycocotools import mask as coco_mask

from mmpse.datasets import digits, digits_dataset, prepare_digits
from mmpse.datasets.scenes import STROKE_ALPHA, opacity, resize, tight_box
from mmpse.errors import UserError
from mmpse.registry import DATASETS


@pytest.fixture
def root(digits) -> Path:
    return digits


@pytest.fixture
def small(monkeypatch) -> None:
    """Let the expected data be few pictures and scenes, which are made at once."""
    split_digits = digits.split_digits
    monkeypatch.setattr(
        digits,
        'split_digits',
        lambda labels: {split: few[:50] for split, few in split_digits(labels).items()},
    )
    monkeypatch.setattr(digits, 'SCENES', {'train': 2, 'test': 1})
    files = {path: digits._digest(content) for path, content in digits._contents()}
    monkeypatch.setattr(digits, 'DIGEST', digits._manifest(files)['digest'])


@pytest.fixture
def small_root(small, tmp_path) -> Path:
    """Data that a test may damage."""
    prepare_digits(tmp_path / 'digits')
    return tmp_path / 'digits'


def annotations(root: Path, split: str) -> dict:
    return json.loads((root / f'scenes/annotations/{split}.json').read_text())


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def used_digits(root: Path, split: str) -> set[int]:
    return {int(path.stem) for path in (root / 'cls' / split).rglob('*.png')}


def test_splits_are_disjoint_complete_and_stratified(root):
    inks, labels = digits.load_source()
    splits = {split: used_digits(root, split) for split in ('train', 'val', 'test')}
    assert {split: len(used) for split, used in splits.items()} == dict(
        train=1047, val=300, test=450
    )
    assert set.union(*splits.values()) == set(range(1797))
    for used in splits.values():
        share = np.bincount(labels[sorted(used)]) / np.bincount(labels)
        np.testing.assert_allclose(share, len(used) / 1797, atol=1 / 170)


def test_no_picture_occurs_twice(root):
    """Disjoint indices are only worth something if no two digits have the same pixels."""
    everything = {pixels(path).tobytes() for path in (root / 'cls').rglob('*.png')}
    assert len(everything) == 1797


def test_pictures_are_the_digits_of_their_folder(root):
    inks, labels = digits.load_source()
    for path in (root / 'cls/val').rglob('*.png'):
        picture, index = pixels(path), int(path.stem)
        assert picture.shape == (32, 32, 3) and picture.dtype == np.uint8
        assert labels[index] == int(path.parent.name)
        # the mean over each 4x4 block of an enlarged picture stays close to the source pixel
        blocks = picture[..., 0].reshape(8, 4, 8, 4).mean((1, 3)) * 16 / 255
        assert np.corrcoef(blocks.ravel(), inks[index].ravel())[0, 1] > 0.95


def test_resize_equals_opencv():
    cv2 = pytest.importorskip('cv2')
    picture = np.random.RandomState(0).randint(0, 256, (8, 10, 3)).astype(np.uint8)
    expected = cv2.resize(picture.astype(np.float64), (37, 32), interpolation=cv2.INTER_LINEAR)
    assert np.abs(resize(picture, 32, 37) - expected).max() <= 0.5 + 1e-6


def test_scenes_show_only_digits_of_their_side(root):
    """In the index that each object carries, and in the pixels of its mask."""
    inks, labels = digits.load_source()
    judged = used_digits(root, 'test')
    drawn = {}
    for split in ('train', 'test'):
        data = annotations(root, split)
        drawn[split] = {annotation['digit_index'] for annotation in data['annotations']}
        fully_visible = 0
        for annotation in data['annotations'][:200]:
            index = annotation['digit_index']
            assert annotation['category_id'] == labels[index] + 1
            mask = coco_mask.decode(annotation['segmentation']).astype(bool)
            strokes = [opacity(inks[index], height) >= STROKE_ALPHA for height in range(20, 49)]
            fully_visible += any(
                np.array_equal(cropped(mask), cropped(stroke)) for stroke in strokes
            )
        assert fully_visible > 140
    assert drawn['test'] <= judged
    assert drawn['train'].isdisjoint(judged)
    assert len(drawn['train']) > 1000 and len(drawn['test']) > 300


def cropped(mask: np.ndarray) -> np.ndarray:
    x, y, width, height = tight_box(mask)
    return mask[y : y + height, x : x + width]


@pytest.mark.parametrize('split, count', [('train', 600), ('test', 150)])
def test_boxes_masks_and_maps_agree(root, split, count):
    data = annotations(root, split)
    assert [image['id'] for image in data['images']] == list(range(1, count + 1))
    assert [category['name'] for category in data['categories']] == list(digits.CLASSES)
    assert [annotation['id'] for annotation in data['annotations']] == list(
        range(1, len(data['annotations']) + 1)
    )
    objects = {image['id']: [] for image in data['images']}
    for annotation in data['annotations']:
        objects[annotation['image_id']].append(annotation)
    for image in data['images']:
        expected = np.zeros((128, 128), np.uint8)
        assert 2 <= len(objects[image['id']]) <= 6
        for annotation in objects[image['id']]:
            mask = coco_mask.decode(annotation['segmentation']).astype(bool)
            assert annotation['bbox'] == list(tight_box(mask))
            assert annotation['area'] == mask.sum()
            assert not expected[mask].any(), 'visible pixels belong to one digit only'
            expected[mask] = annotation['category_id']
        np.testing.assert_array_equal(
            pixels(root / f'scenes/seg/{split}' / image['file_name']), expected
        )
        assert pixels(root / f'scenes/{split}' / image['file_name']).shape == (128, 128, 3)


def test_damage_is_named_and_rebuilt(small_root, monkeypatch):
    """What a killed run and a broken disk leave behind: missing and bad files."""
    root = small_root
    (root / 'scenes/test/.0001.1.tmp.png').write_bytes(b'of a killed process')
    picture = root / 'scenes/test/0001.png'
    changed = pixels(picture).copy()
    changed[0, 0, 0] ^= 1
    Image.fromarray(changed).save(picture)
    next((root / 'cls/test/3').iterdir()).unlink()
    broken = root / 'scenes/seg/train/0001.png'
    broken.write_bytes(broken.read_bytes()[:60])
    (root / 'scenes/annotations/train.json').write_text('{"images": [')

    damage = digits.find_damage(root)
    assert sorted(' '.join(line.split()[1:]) for line in damage) == [
        'has changed',
        'is missing',
        'is not readable',
        'is not readable',
    ]
    said = []
    monkeypatch.setattr(digits, 'print_log', lambda message, *_: said.append(message))
    assert prepare_digits(root)['digest'] == digits.DIGEST
    assert any('scenes/test/0001.png has changed' in message for message in said)
    assert not digits.find_damage(root)


def test_two_builds_are_equal(small_root, tmp_path):
    again = prepare_digits(tmp_path / 'again')
    assert again == json.loads((small_root / 'manifest.json').read_text())


def test_whole_data_is_left_alone(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    prepare_digits(root)
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == before


def test_png_bytes_do_not_matter(small_root):
    """Another zlib compresses otherwise; the content decides."""
    path = small_root / 'scenes/test/0001.png'
    before = path.read_bytes()
    Image.fromarray(pixels(path)).save(path, compress_level=9)
    assert path.read_bytes() != before
    assert not digits.find_damage(small_root)


@pytest.mark.parametrize('text', ['', '[]', '{"files": {"a": 1}}', '{"files": 3}'])
def test_damaged_manifest_is_noticed(tmp_path, text):
    (tmp_path / 'manifest.json').write_text(text)
    (line,) = digits.find_damage(tmp_path)
    assert line.startswith('manifest.json')


def test_killed_while_writing_goes_on_later(small, tmp_path, monkeypatch):
    root, write = tmp_path / 'digits', digits._write

    def killed(path, content):
        if path.name == 'train.json':
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(digits, '_write', killed)
        prepare_digits(root)
    with pytest.raises(FileNotFoundError, match='no readable manifest.json'):
        digits_dataset('detection', 'train', str(root))
    prepare_digits(root)
    assert not digits.find_damage(root)


def test_other_source_digits_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(digits, 'SOURCE_DIGEST', '0' * 64)
    with pytest.raises(UserError, match='scikit-learn .* has SHA-256 87ff.*, expected 0000'):
        prepare_digits(tmp_path / 'digits')
    assert not (tmp_path / 'digits').exists()


def test_other_pictures_are_an_error(small, tmp_path, monkeypatch):
    monkeypatch.setattr(digits, 'DIGEST', '0' * 64)
    with pytest.raises(UserError, match='data made here has SHA-256 .*, expected 0000'):
        prepare_digits(tmp_path / 'digits')
    assert not (tmp_path / 'digits').exists()


def test_files_of_others_are_never_deleted(small, tmp_path):
    thesis = tmp_path / 'home/thesis.tex'
    thesis.parent.mkdir()
    thesis.write_text('years of work')
    with pytest.raises(FileExistsError, match='thesis.tex'):
        prepare_digits(thesis.parent)
    assert thesis.read_text() == 'years of work'
    assert list(tmp_path.rglob('*.*')) == [thesis]


def test_stray_picture_is_noticed(small_root):
    """A stock dataset class would train on it."""
    shutil.copy(small_root / 'scenes/test/0001.png', small_root / 'cls/train/3/9999.png')
    assert digits.find_damage(small_root) == ['cls/train/3/9999.png does not belong here']


# ---------------------------------------------------------------------------- loading


def build(root: Path, scope: str, **cfg):
    """Build as a config does whose ``default_scope`` is the OpenMMLab project ``scope``."""
    with DefaultScope.overwrite_default_scope(scope):
        return DATASETS.build(dict(type='mmpse.DigitsDataset', data_root=str(root), **cfg))


@pytest.mark.parametrize('split, count', [('train', 1047), ('val', 300), ('test', 450)])
def test_classification(root, split, count):
    dataset = build(
        root,
        'mmpretrain',
        task='classification',
        split=split,
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    )
    assert type(dataset).__name__ == 'CustomDataset' and len(dataset) == count
    assert dataset.metainfo['classes'] == digits.CLASSES
    assert dataset[0]['inputs'].shape == (3, 32, 32)
    assert sorted(set(dataset.get_gt_labels())) == list(range(10))


@pytest.mark.parametrize('split, count', [('train', 600), ('test', 150)])
def test_detection(root, split, count):
    dataset = build(
        root,
        'mmdet',
        task='detection',
        split=split,
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='PackDetInputs', meta_keys=('img_id',)),
        ],
    )
    assert type(dataset).__name__ == 'CocoDataset' and len(dataset) == count
    sample = dataset[3]
    assert sample['inputs'].shape == (3, 128, 128)
    objects = [
        annotation
        for annotation in annotations(root, split)['annotations']
        if annotation['image_id'] == sample['data_samples'].img_id
    ]
    instances = sample['data_samples'].gt_instances
    assert instances.labels.tolist() == [one['category_id'] - 1 for one in objects]
    assert instances.masks.masks.sum((1, 2)).tolist() == [one['area'] for one in objects]


@pytest.mark.parametrize('split, count', [('train', 600), ('test', 150)])
def test_segmentation(root, split, count):
    dataset = build(
        root,
        'mmseg',
        task='segmentation',
        split=split,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
    )
    assert type(dataset).__name__ == 'BaseSegDataset' and len(dataset) == count
    assert len(dataset.metainfo['classes']) == len(dataset.metainfo['palette']) == 11
    sample = dataset[3]
    assert sample['inputs'].shape == (3, 128, 128)
    map_ = sample['data_samples'].gt_sem_seg.data[0].numpy()
    np.testing.assert_array_equal(map_, pixels(root / f'scenes/seg/{split}/0004.png'))


@pytest.mark.parametrize('task', ['classification', 'detection', 'segmentation'])
def test_missing_folder_names_itself_and_the_remedy(tmp_path, task):
    missing = tmp_path / 'nowhere'
    with pytest.raises(FileNotFoundError) as error:
        DATASETS.build(
            dict(type='mmpse.DigitsDataset', task=task, split='train', data_root=str(missing))
        )
    assert str(missing) in str(error.value)
    assert f'tools/dataset_converters/prepare_digits.py --root {missing}' in str(error.value)


def test_data_of_another_version_is_refused(tmp_path):
    (tmp_path / 'manifest.json').write_text('{"digest": "abc"}')
    with pytest.raises(FileNotFoundError, match='another version of mmpse'):
        digits_dataset('detection', 'train', str(tmp_path))


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(task='detect', split='train'), "task='detect', expected one of"),
        (dict(task='detection', split='val'), "split='val', detection has"),
    ],
)
def test_unknown_task_or_split(arguments, message):
    with pytest.raises(ValueError, match=message):
        digits_dataset(**arguments)


def test_metainfo_needs_no_data(tmp_path):
    """A trained model is used on a machine without the data: mmdet's init_detector does this."""
    dataset = digits_dataset('detection', 'test', str(tmp_path), lazy_init=True)
    assert dataset.metainfo['classes'] == digits.CLASSES
