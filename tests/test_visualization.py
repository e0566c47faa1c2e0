import numpy as np

from mmpse.search.archive import Judged
from mmpse.visualization import (
    picture,
    search_progress,
    table,
    training_losses,
    width_profile,
    write_page,
)


def test_width_profile_draws_the_share_of_every_unit():
    full = dict(stem=32, layer1=16, conv2=64)
    figure = width_profile({'half': dict(stem=16, layer1=8, conv2=16)}, full)
    (line,) = figure.axes[0].lines
    assert line.get_ydata().tolist() == [0.5, 0.5, 0.25]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == list(full)


def test_search_progress_draws_best_and_mean_scores():
    scores = [[1.0, 2.0], [4.0, 0.0], [3.0, 3.0]]
    references = [
        Judged(1, 0, origin, (k,), 5.0 - k, None, dict(flops=3e6))
        for k, origin in enumerate(('fullnet', 'uniform'))
    ]
    judged = references + [
        Judged(1, g, 'prior', (8 * g, k), score, None, dict(flops=1e6))
        for g, row in enumerate(scores, 1)
        for k, score in enumerate(row)
    ]
    failed = judged[2]._replace(score=float('-inf'), resources=dict(flops=1))
    within = [row for row in judged if row.score != 4.0]
    searches = {
        'a': ([*judged, failed], judged, judged[2]),
        'b': (judged[1:4], [], None),
        'c': (judged, within, within[0]),
    }
    figure = search_progress(searches, 'top-1')
    best, mean, fullnet, uniform, of_b, _, uniform_of_b, of_c, *_ = figure.axes[0].lines
    assert np.isnan(of_b.get_ydata()).all()
    assert [line.get_linestyle() for line in (fullnet, uniform, uniform_of_b)] == [':', '-.', '-.']
    assert of_c.get_ydata().tolist() == [2.0, 2.0, 3.0]
    assert [set(line.get_ydata()) for line in (fullnet, uniform)] == [{5.0}, {4.0}]
    assert best.get_ydata().tolist() == [2.0, 4.0, 4.0]
    assert mean.get_ydata().tolist() == [1.5, 2.0, 3.0]
    stars = [c for c in figure.axes[1].collections if c.get_zorder() == 3]
    assert [star.get_offsets().tolist() for star in stars] == [[[1.0, 1.0]], [[3.0, 5.0]]]
    assert best.get_xdata().tolist() == [2, 4, 6] and of_b.get_xdata().tolist() == [2]


def test_training_losses_draws_every_subnet():
    flops, losses, iterations = np.array([1e6, 3e6]), np.array([2.0, 1.0]), np.array([0, 9])
    axes = training_losses(flops, losses, iterations).axes[0]
    points = axes.collections[0]
    assert points.get_offsets().tolist() == [[1.0, 2.0], [3.0, 1.0]]
    assert points.get_array().tolist() == [0, 9]


def test_page_holds_tables_and_pictures_and_escapes_texts(tmp_path):
    body = table(['a'], [['<b>']]) + picture(width_profile({}, dict(stem=8)), 'widths')
    write_page(tmp_path / 'page.html', 'x < y', [('Result', body)])
    page = (tmp_path / 'page.html').read_text()
    assert '&lt;b&gt;' in page and 'x &lt; y' in page and 'data:image/png;base64,' in page
    assert [path.name for path in tmp_path.iterdir()] == ['page.html']
