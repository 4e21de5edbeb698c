"""Figures on a page: in its colours, with text under the pointer, and nothing in them that isn't a figure."""

from xml.etree import ElementTree

from runs_on_disk import HOSTILE, fork_join

from asyncthink_jax.report import timeline
from asyncthink_jax.report.layout import layout
from asyncthink_jax.report.style import COLORS, css, hover, new_figure
from asyncthink_jax.report.svg import inline

ALLOWED = {"svg", "g", "a", "title", "path", "text", "tspan", "defs", "use", "clipPath", "rect"}


def svg_of(episode, anchor="episode1"):
    return ElementTree.fromstring(inline(timeline.draw(episode, anchor=anchor), "one", "a timeline"))


def titles(root):
    return [element.text for element in root.iter("title")]


def test_every_bar_and_every_arrow_of_a_timeline_says_what_it_is():
    told = titles(svg_of(fork_join(text="5 6 8 10 = 3")))
    assert "worker 1 decodes, steps 5 to 13 (9)\nsub-query: 5 6 8 10 = 3\nreturns: 5 6 8 10 = 3" in told
    assert "organizer waits for worker 2, steps 19 to 26 (8)" in told
    assert "result of worker 1 is there, not joined yet, steps 14 to 16 (3)\nreturned: 5 6 8 10 = 3" in told
    assert "step 4: fork 1, 5 6 8 10 = 3" in told and "step 26: join 2, none" in told
    assert any(text.startswith("organizer decodes, steps 1 to 18 (18)\nstep 4: fork 1") for text in told)


def test_every_bar_leads_to_the_text_of_its_trace():
    one = fork_join()
    links = [element.get("href") for element in svg_of(one, "here").iter("a")]
    assert len(links) == len([bar for bar in layout(one).bars if bar.end > bar.start])
    assert set(links) == {"#here-0", "#here-1", "#here-2"}


def test_colours_are_those_of_the_page_light_and_dark():
    text = inline(timeline.draw(fork_join()), "one", "")
    assert "var(--navy)" in text and "var(--waiting)" in text and COLORS["navy"][0] not in text
    assert f"--navy:{COLORS['navy'][0]}" in css() and f"--navy:{COLORS['navy'][1]}" in css()
    assert len({light for light, _ in COLORS.values()} - {COLORS["on-worker"][0]}) == len(COLORS) - 1


def test_two_figures_of_a_page_share_no_id():
    ids = [
        {element.get("id") for element in ElementTree.fromstring(inline(timeline.draw(fork_join()), name, "")).iter()}
        for name in ("one", "two")
    ]
    assert ids[0] & ids[1] == {None}
    one = ElementTree.fromstring(inline(timeline.draw(fork_join()), "one", ""))
    targets = {element.get("href") for element in one.iter("use")}
    assert targets and targets <= {f"#{element.get('id')}" for element in one.iter()}


def test_hostile_text_stays_text():
    one = fork_join(text=HOSTILE, prompt=HOSTILE, answer=HOSTILE)
    written = inline(timeline.draw(one, anchor="episode1"), "one", HOSTILE.replace("\x00", "").replace("\x07", ""))
    written.encode()
    root = ElementTree.fromstring(written)
    assert {element.tag for element in root.iter()} <= ALLOWED
    assert not [name for element in root.iter() for name in element.attrib if name.startswith("on")]
    assert any("document.title='owned'" in text for text in titles(root))
    assert not {"\u202e", "\x1b", "\u2066", "\ud800"} & set("".join(root.itertext()))


def test_text_that_no_xml_may_hold_breaks_no_page():
    figure = new_figure(2, 2)
    (line,) = figure.add_subplot().plot([1], [1])
    hover(line, "a\x00b\x1b")
    figure.text(0, 0, "\x01 raw", parse_math=False)
    root = ElementTree.fromstring(inline(figure, "one", ""))
    assert titles(root) == ["a\u2400b\u241b"]
