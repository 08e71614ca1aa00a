"""A replay's page: bounded for a bag of an hour, and right in a browser, where there is one."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest
from browser import SKIP, Browser, find_chromium
from test_cli_replay import pusht  # noqa: F401  (a fixture)

from diffusion_policy_rt.replay.bag_page import write_page
from diffusion_policy_rt.replay.session import Wish, replay_one
from diffusion_policy_rt.replay.svg import END, LEFT, MARKS, round_step

HOUR, STEP_NS = 36_000, 100_000_000
"""Ticks of an hour at 10 Hz, and how far they lie apart [ns]."""
CONTRAST = """
// by how much the worst text or colour of a drawing misses its contrast; negative: by nothing
(() => {
  const number = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = rgb => rgb.map(v => v / 255).map(
    v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
    return getComputedStyle(document.body).backgroundColor;
  };
  const ratio = (a, b) => {
    const [low, high] = [light(number(a)), light(number(b))].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const found = [];
  for (const node of document.querySelectorAll('main *')) {
    const style = getComputedStyle(node), drawn = node.closest('svg') && node.tagName !== 'svg';
    const words = [...node.childNodes].some(c => c.nodeType === 3 && c.textContent.trim());
    if (words) found.push([4.5, ratio(drawn ? style.fill : style.color, behind(node))]);
  }
  const card = document.querySelector('section'), probe = document.createElement('i');
  card.append(probe);
  for (const name of ['fresh', 'fewer', 'cached', 'chunk', 'hold', 'stop', 'late', 'own',
                      'theirs']) {
    probe.style.color = `var(--${name})`;
    found.push([3, ratio(getComputedStyle(probe).color, behind(card))]);
  }
  probe.remove();
  return found.map(([least, is]) => least - is).reduce((a, b) => Math.max(a, b), -99);
})()
"""


@pytest.fixture(scope='module')
def runs(pusht, tmp_path_factory):  # noqa: F811
    """Return two replays of one bag: one that costs nothing, one of which plans are late."""
    out = tmp_path_factory.mktemp('runs')
    return [replay_one('pusht', 'onnxruntime', f'_{name}', Wish(
        pusht, out / name, latency, steps=4, write_bag=False))
        for name, latency in (('prompt', '0'), ('late', '40ms,p99=90ms,encode=3ms'))]


@pytest.fixture(scope='module')
def long(runs, tmp_path_factory):
    """Return a replay whose trace is one hour long, every seventh tick late."""
    lines = [json.loads(text) for text in runs[1].trace.read_text().splitlines()]
    trace = tmp_path_factory.mktemp('long') / 'trace.jsonl'
    with trace.open('w') as file:
        for k in range(HOUR):
            line = lines[k % len(lines)]
            file.write(json.dumps({**line, 'due_ns': lines[0]['due_ns'] + k * STEP_NS,
                                   'late_plan': k % 7 == 0}) + '\n')
    return dataclasses.replace(runs[1], trace=trace)


@pytest.fixture(scope='module')
def pages(runs, long, tmp_path_factory):
    """Return the pages by name."""
    folder, made = tmp_path_factory.mktemp('pages'), {'two': runs, 'hour': [long]}
    for name, shown in made.items():
        write_page(folder / f'{name}.html', shown)
    return {name: folder / f'{name}.html' for name in made}


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    if find_chromium() is None:
        pytest.skip(SKIP)
    found = Browser(tmp_path_factory.mktemp('profile'))
    yield found
    found.close()


@pytest.mark.parametrize('end', [1e-3, 0.1, 1, 7, 8, 30.1, 3600, 99999])
def test_axes_have_a_few_round_marks(end):
    assert MARKS / 2.5 <= end / round_step(end) <= MARKS
    assert re.fullmatch(r'[125]e[+-]\d\d', f'{round_step(end):.0e}')


def test_the_page_of_an_hour_is_bounded_and_shows_late_ticks_to_its_end(pages):
    page = pages['hour'].read_text()
    assert len(page) < 1_000_000
    dots = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', page)]
    assert min(dots) <= LEFT + 1 and max(dots) >= END - 1 and len(dots) <= END - LEFT + 1


class Outline(HTMLParser):
    """Collects what a screen reader goes by."""

    def __init__(self):
        super().__init__()
        self.headings, self.nameless = [], []

    def handle_starttag(self, tag, attributes):
        told = dict(attributes)
        if re.fullmatch('h[1-6]', tag):
            self.headings.append(int(tag[1]))
        if tag in ('svg', 'img') or told.get('role') == 'region':
            self.nameless += [tag] if len(told.get('aria-label') or '') < 10 else []


def test_headings_form_an_outline_and_drawings_have_names(pages):
    outline = Outline()
    outline.feed(pages['two'].read_text())
    assert outline.headings.count(1) == 1 and outline.headings.count(2) == 2
    assert all(b <= a + 1 for a, b in zip(outline.headings, outline.headings[1:]))
    assert not outline.nameless


@pytest.mark.parametrize('name', ['two', 'hour'])
@pytest.mark.parametrize('dark', [False, True], ids=['light', 'dark'])
@pytest.mark.parametrize('width', [360, 1280, 2400])
def test_a_browser_shows_it_at_any_width_without_errors_requests_or_sideways_scrolling(
        browser, pages, name, dark, width):
    browser.open(pages[name], width, dark)
    assert browser.wrong() == []
    assert browser.requests() == [pages[name].as_uri()]
    assert browser.run('document.documentElement.scrollWidth') <= width
    pictures = browser.run('[...document.querySelectorAll("svg")].map(s => '
                           's.getBoundingClientRect().width)')
    assert pictures and min(pictures) >= 700  # where letters can be read
    assert browser.run(CONTRAST) <= 0
    assert len(browser.screenshot()) > 20_000


def test_texts_of_a_drawing_neither_overlap_nor_leave_it(browser, pages):
    browser.open(pages['two'])
    found = browser.run("""[...document.querySelectorAll('svg')].map(svg => {
      const box = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll('text')]
        .map(t => [t.getBoundingClientRect(), t.textContent]);
      const out = texts.filter(([b]) => b.left < box.left - 1 || b.right > box.right + 1
        || b.top < box.top - 1 || b.bottom > box.bottom + 1).map(([, t]) => t);
      const over = texts.flatMap(([a, s], i) => texts.slice(i + 1).filter(([b]) =>
        a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 4
        && b.top < a.bottom - 4).map(([, t]) => s + ' / ' + t));
      return [...out, ...over];
    }).flat()""")
    assert found == []


def test_the_keyboard_reaches_all_that_scrolls_and_a_screen_reader_hears_names(browser, pages):
    browser.open(pages['two'], 360)
    for key in ('rawKeyDown', 'keyUp'):
        browser.call('Input.dispatchKeyEvent', type=key, key='Tab', windowsVirtualKeyCode=9)
    assert browser.run('document.activeElement.className') == 'wide'
    assert browser.run("""[...document.querySelectorAll('*')].filter(node =>
      node.scrollWidth > node.clientWidth + 1 && node.tabIndex < 0
      && /auto|scroll/.test(getComputedStyle(node).overflowX)).length""") == 0
    nodes = browser.call('Accessibility.getFullAXTree')['nodes']
    told = [(node['role']['value'], node.get('name', {}).get('value', '')) for node in nodes
            if not node['ignored'] and 'role' in node]
    assert all(name for role, name in told if role in ('image', 'img', 'region', 'heading'))
    assert ('heading', 'Replay of pusht') in told
    assert any('deadline 50 ms' in name for role, name in told if role in ('image', 'img'))
