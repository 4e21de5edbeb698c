"""The page as a browser has it: headless Chromium opens the file, and a probe says what is there.

The probe is a script, so it goes into a copy of the page without the policy that forbids scripts. That makes the checks
sharper: what the page fails to escape would run there.
"""

import functools
import html
import json
import re
import shutil
import subprocess

import pytest
from runs_on_disk import EPISODES, HOSTILE, fork_join, write_run

from asyncthink_jax.report.write import write_report

pytestmark = pytest.mark.slow
PROBE = """<pre id="probe"></pre><script>
const at = (box) => document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
const bars = [...document.querySelectorAll('article svg a')].map((link) => {
  link.scrollIntoView({block: 'center', inline: 'center', behavior: 'instant'});
  const hit = at(link.getBoundingClientRect());
  const titled = hit && hit.closest('a, g:has(> title)');
  link.focus({preventScroll: true});
  return {
    hover: titled ? titled.querySelector('title').textContent : null,
    focused: document.activeElement === link,
    target: document.querySelector(link.getAttribute('href')).textContent,
    width: link.getBoundingClientRect().width,
  };
});
const seen = (element) => getComputedStyle(element);
document.getElementById('probe').textContent = JSON.stringify({
  bars,
  title: document.title,
  lanes: [...document.querySelectorAll('article')].map((one) =>
    [...one.querySelectorAll('svg text')].map((text) => text.textContent)
      .filter((text) => /^(organizer|worker \\d)$/.test(text))),
  overflow: document.documentElement.scrollWidth - innerWidth,
  background: seen(document.body).backgroundColor,
  organizer: seen(document.querySelector('article svg a[href$="-0"] path')).fill,
  ink: seen(document.querySelector('article svg text')).fill,
  figures: [...document.querySelectorAll('svg')].map((svg) => svg.getBoundingClientRect().height),
});
</script>"""


@functools.cache
def chromium():
    """The browser's command; without one that starts, the test skips."""
    for name in filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        # Ubuntu's package is a script that says what else to install.
        if subprocess.run([name, "--version"], capture_output=True, check=False).returncode == 0:
            return name
    pytest.skip("needs Chromium: apt-get install chromium")


def opened(page, *, size="1280,900", flags=()):
    """(DOM after loading, what stood on the console) of a file."""
    profile = page.parent / "profile"
    done = subprocess.run(
        [
            chromium(),
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            f"--user-data-dir={profile}",
            f"--window-size={size}",
            "--enable-logging=stderr",
            *flags,
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    shutil.rmtree(profile, ignore_errors=True)
    return done.stdout, re.findall(r"CONSOLE.*", done.stderr)


def probed(page, **options):
    """What the probe says of a copy of the page that lets scripts run."""
    text, count = re.subn(r"<meta http-equiv=[^>]*>", "", page.read_text(encoding="utf-8"))
    assert count == 1
    copy = page.with_name("probed.html")
    copy.write_text(text.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    dom, console = opened(copy, **options)
    assert console == []
    return json.loads(html.unescape(re.search(r'<pre id="probe">(.*?)</pre>', dom, re.DOTALL)[1]))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    episodes = {"async": [fork_join(text="5 6 8 10 = 3", wait=40), *EPISODES[2:]]}
    return write_report(write_run(tmp_path_factory.mktemp("report") / "run", episodes=episodes))


def test_the_page_opens_from_a_file_without_a_word_on_the_console(page):
    dom, console = opened(page)
    assert console == []
    assert dom.count("<svg") == 6 and "</footer>" in dom


def test_timelines_have_lanes_and_bars_that_can_be_pointed_at_and_tabbed_to(page):
    seen = probed(page)
    assert seen["lanes"] == [["organizer", "worker 1", "worker 2"]] * 3
    assert all(height > 100 for height in seen["figures"])
    assert all(bar["focused"] for bar in seen["bars"])
    hovers = [bar["hover"] or "" for bar in seen["bars"]]
    assert any(text.startswith("worker 1 decodes, steps 5 to 13 (9)\nsub-query: 5 6 8 10 = 3") for text in hovers)
    assert any(text.startswith("organizer decodes, steps 1 to 18") for text in hovers)
    assert "organizer waits for worker 2, steps 19 to 46 (28)" in hovers
    target = next(bar["target"] for bar in seen["bars"] if (bar["hover"] or "").startswith("worker 2 decodes"))
    assert target.startswith("worker 2steps 7 to 46")


def test_a_dark_screen_gets_a_dark_page_with_figures_that_stand_out(page):
    light, dark = probed(page), probed(page, flags=["--blink-settings=preferredColorScheme=0"])
    assert brightness(light["background"]) > 240 > 60 > brightness(dark["background"])
    for name in ("organizer", "ink"):
        for seen in (light, dark):
            assert abs(brightness(seen[name]) - brightness(seen["background"])) > 100


def brightness(color):
    return sum(map(int, re.findall(r"\d+", color)[:3])) / 3


def test_a_narrow_screen_has_to_scroll_nothing_but_figures_and_tables(page):
    assert probed(page, size="500,900")["overflow"] <= 0


def test_a_hostile_episode_runs_no_script(tmp_path):
    bad = fork_join(text=HOSTILE, prompt=HOSTILE, answer=HOSTILE, error=HOSTILE) | {"problem": {HOSTILE: HOSTILE}}
    written = write_report(write_run(tmp_path / "run", episodes={"async": [bad]}))
    seen = probed(written)
    assert seen["title"] == "tiny: report of a run"
    assert any("document.title='owned'" in (bar["hover"] or "") for bar in seen["bars"])
    # The same text where nothing escapes it, so that the check is one that can fail.
    open_door = tmp_path / "open_door.html"
    open_door.write_text(f"<title>x</title><p>{HOSTILE}</p>".replace("\ud800", ""), encoding="utf-8")
    assert "<title>owned</title>" in opened(open_door)[0]
    # The policy keeps the door shut even then.
    policy = re.search(r"<meta http-equiv=[^>]*>", written.read_text(encoding="utf-8"))[0]
    open_door.write_text(f"{policy}{open_door.read_text(encoding='utf-8')}", encoding="utf-8")
    dom, console = opened(open_door)
    assert "<title>owned</title>" not in dom and console
