"""Trainings by the clock, and what they read."""

import itertools

import pytest
import torch
from evidence import cifar10_fixture, tools  # noqa: F401  fixtures

from mmpse.registry import DATASETS


@pytest.fixture
def scale():
    import frame

    return frame.Scale(images=None, splits=5, bfloat16=True)


def test_killed_training_keeps_its_time(scale, cifar10, tmp_path, monkeypatch):
    import frame

    monkeypatch.setattr(frame, 'INTERVAL', 1)
    shares = []

    def advance(share):
        shares.append(share)
        if len(shares) == 3:
            raise KeyboardInterrupt

    def train(seconds):
        cfg = frame.load_config('psenet_resnet20_b64', scale, str(cifar10))
        cfg.custom_hooks[-1].execution = 'sliced'
        return frame.train(cfg, 0, tmp_path / 'work', advance, seconds=seconds)

    with pytest.raises(KeyboardInterrupt):
        train(1000)
    assert 0 < shares[0] < shares[1] < shares[2]
    seconds = shares[1] * 1000  # known to the last checkpoint
    runner, figures = train(seconds)  # already over
    assert figures['steps'] == 3 and len(shares) == 3
    (clock,) = [hook for hook in runner.hooks if isinstance(hook, frame.Clock)]
    assert clock.passed == pytest.approx(seconds)
    assert clock.rates == [0.1]  # not the one that the killed training had come to


def test_training_by_the_clock_is_tested_at_its_end(scale, cifar10, tmp_path, monkeypatch):
    import frame

    ticks = itertools.count()
    monkeypatch.setattr(frame, 'now', lambda: next(ticks))
    monkeypatch.setattr(frame, 'INTERVAL', 2)
    cfg = frame.load_config('static_resnet20_b64', scale, str(cifar10))
    runner, figures = frame.train(cfg, 0, tmp_path / 'work', lambda share: None, seconds=3)
    assert figures['steps'] == 3 and (tmp_path / 'work/iter_2.pth').exists()
    end = {key: value.clone() for key, value in runner.model.state_dict().items()}
    runner.val()
    runner.test()
    assert all(torch.equal(end[key], value) for key, value in runner.model.state_dict().items())


def test_fine_tuning_goes_on_with_its_own_checkpoints(scale, cifar10, tmp_path, monkeypatch):
    """`load_from` is where it starts, neither what it resumes nor time that it took."""
    import frame

    ticks, loaded, shares = itertools.count(), [], []
    monkeypatch.setattr(frame, 'now', lambda: next(ticks))
    load_checkpoint = frame.Runner.load_checkpoint

    def spy(runner, path, *args, **kwargs):
        loaded.append(path)
        return load_checkpoint(runner, path, *args, **kwargs)

    monkeypatch.setattr(frame.Runner, 'load_checkpoint', spy)

    def train(name, load_from=None):
        cfg = frame.load_config('static_resnet20_b64', scale, str(cifar10))
        cfg.load_from = load_from
        return frame.train(cfg, 0, tmp_path / name, advance, epochs=2)

    def advance(share):
        shares.append(share)
        if len(shares) == 4:  # the second epoch of the fine-tuning
            raise KeyboardInterrupt

    _, figures = train('first')
    first, own = str(tmp_path / 'first/epoch_2.pth'), str(tmp_path / 'second/epoch_1.pth')
    with pytest.raises(KeyboardInterrupt):
        train('second', first)
    _, again = train('second', first)
    assert loaded == [first, own] and shares == [0.0, 0.5, 0.0, 0.5, 0.5]
    assert again == figures  # as many steps, and as long


@pytest.mark.parametrize('network', ['resnet20_b64', 'mobilenet-v2-w0p5_b128'])
@pytest.mark.parametrize('way', ['static', 'psenet', 'autoslim', 'spos', 'swp'])
def test_held_out_images_are_not_trained_on(scale, cifar10, scope, network, way):
    import frame

    def images(loader):
        dataset = DATASETS.build(loader.dataset)
        return {int(dataset.dataset.get_data_info(k)['img'][0, 0, 0]) for k in range(len(dataset))}

    cfg = frame.load_config(f'{way}_{network}', scale, str(cifar10))
    judged_by = frame.load_config(f'static_{network}', scale, str(cifar10))
    trained, held_out = images(cfg.train_dataloader), images(judged_by.val_dataloader)
    assert len(trained) == 64 and len(held_out) == 16 and not trained & held_out
    if way != 'static':
        assert cfg.test_dataloader is None and cfg.val_dataloader is None
        assert cfg.model.backbone == judged_by.model.backbone
