"""The report page: what it says, that it stands alone, that a damaged run still gives a page."""

import base64
import html
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from browsers import chromium
from PIL import Image
from playwright.sync_api import sync_playwright

from slotworks.errors import UserError
from slotworks.reports import report, write_report
from slotworks.reports.charts import as_svg
from slotworks.tables import metric


def png(color):
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), color).save(buffer, "PNG")
    return buffer.getvalue()


def record(**more):
    return {
        "data": "tetrominoes",
        "split": "test",
        "protocol": "oclf",
        "num_images": 320,
        "checkpoint": "checkpoints/last.safetensors",
        "seed": 0,
        "metrics": {
            "fg_ari": {"mean": 0.8612, "sem": 0.0131, "n": 320},
            "mse_sum": {"mean": 237.53, "sem": 3.14, "n": 300},
        },
        "per_image": {"fg_ari": [0.9, 0.25, None, 1.0]},
    } | more


@pytest.fixture
def run(tmp_path):
    """A run folder with everything."""
    folder = tmp_path / "my run"
    (folder / "eval").mkdir(parents=True)
    (folder / "samples").mkdir()
    (folder / "run.yaml").write_text(
        "method: {kind: SlotAttentionConfig, image_size: [35, 35]}\ndata: {kind: TetrominoScenes}\n"
        "optimizer: {lr: 0.0004}\nsteps: 7000\nseed: 3\n"
    )
    (folder / "env.json").write_text('{"torch": "2.13.0", "gpu": {"name": "none"}}')
    rows = [
        {"step": s, "time": s / 10, "loss/recon": 1 / (s + 1), "total": 1 / (s + 1), "lr": 4e-4}
        for s in range(0, 7001, 100)
    ]
    rows[-1] |= {"eval/fg_ari": 0.86, "eval/images": 320.0}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "eval" / "tetrominoes-test-oclf.json").write_text(json.dumps(record()))
    finding = {
        "name": "background_split",
        "severity": "note",
        "evidence": "3.6 slots share the background (threshold 1.6).",
        "fix": "Use fewer slots.",
    }
    doctor = {"verdict": "notes: background split", "step": 7000, "findings": [finding], "stats": {}}
    (folder / "eval" / "doctor.json").write_text(json.dumps(doctor))
    for name in ("input", "truth", "segmentation", "recon", "part0", "part1", "mask0", "mask1", "attn"):
        (folder / "samples" / f"{name}.png").write_bytes(png("red"))
    sample = {
        "scores": {"fg_ari": 0.9},
        "colors": ["#464646", "#e69f00"],
        **{name: f"{name}.png" for name in ("input", "truth", "segmentation", "recon")},
        "parts": ["part0.png", "part1.png"],
        "masks": ["mask0.png", "mask1.png"],
        "attn_steps": [["attn.png", "attn.png"], ["attn.png", "attn.png"]],
    }
    rows = [{"index": 4} | sample, {"index": 11} | sample | {"scores": {"fg_ari": 0.25}}]
    (folder / "samples" / "index.json").write_text(json.dumps({"step": 7000, "rows": rows}))
    for step in (1000, 7000):
        (folder / "samples" / f"step_{step:07d}.png").write_bytes(png("blue"))
    return folder


@pytest.fixture(autouse=True)
def drawn_once(monkeypatch):
    """Charts of the same numbers are drawn once for all tests: each takes a tenth of a second."""
    monkeypatch.setattr(report, "as_svg", lambda one: DRAWN.get(repr(one)) or drawn(one))


DRAWN = {}


def drawn(one):
    DRAWN[repr(one)] = as_svg(one)
    return DRAWN[repr(one)]


def page(folder):
    return write_report(folder).read_text(encoding="utf-8")


def words(text):
    """What a reader sees: without styles, tags and runs of blanks."""
    text = re.sub(r"<style>.*?</style>", " ", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


class Checker(HTMLParser):
    """Collects addresses and checks that tags are closed in order."""

    VOID = ("meta", "img", "line", "path", "br")

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.tags, self.images_without_text = [], [], [], 0

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.addresses += [
            attrs[key] for key in ("src", "href", "action", "data", "poster", "xlink:href") if key in attrs
        ]
        self.images_without_text += tag == "img" and not attrs.get("alt")
        assert not any(key.startswith("on") for key in attrs), attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    @classmethod
    def of(cls, text):
        checker = cls()
        checker.feed(text)
        assert checker.open == []
        return checker


def test_the_number_comes_first_and_one_table_holds_all_protocols(run):
    (run / "run.yaml").write_text((run / "run.yaml").read_text() + "protocol: savi\n")
    savi = record(protocol="savi", metrics={"fg_ari": {"mean": 0.75, "sem": 0.02, "n": 320}})
    (run / "eval" / "tetrominoes-test-savi.json").write_text(json.dumps(savi))
    text = words(page(run))
    assert "FG-ARI 75.0 % ± 2.0 Rules: savi. tetrominoes, test split, 320 images. Are two pixels of objects" in text
    assert text.index("75.0 %") < text.index("Notes: background split") < text.index("Pictures at step 7000")
    place = "tetrominoes, test split, 320 images, checkpoint checkpoints/last.safetensors, seed 0 metric oclf savi"
    assert place in text
    asked = metric("fg_ari")["about"]
    assert f"FG-ARI {asked} 86.1 ± 1.3 75.0 ± 2.0 summed squared error" in text
    assert "237.5 ± 3.1 n = 300" in text
    assert "Shares are in percent, here and in all that follows; others as they are." in text
    assert text.count("Shares are in percent") == 1
    assert "Worst images: 1 (25.0), 0 (90.0), 3 (100.0)" in text


def test_many_protocols_stand_below_each_other_and_metrics_are_explained_once(run):
    for k in range(5):
        (run / "eval" / f"tetrominoes-test-oclf-{k}.json").write_text(json.dumps(record()))
    shown = page(run)
    text = words(shown)
    assert "protocol FG-ARI summed squared error oclf-0 86.1 ± 1.3 237.5 ± 3.1 n = 300 oclf-1 86.1" in text
    assert shown.count(f"<dd>{metric('fg_ari')['about']}</dd>") == 1
    assert shown.count("<table>") == 1


def test_every_metric_of_discovery_is_explained():
    from slotworks.protocols import LABELS

    assert [name for name in LABELS if not metric(name)["about"]] == []


def test_every_finding_is_explained(run):
    from slotworks.evaluation import doctor
    from slotworks.reports.labels import FINDINGS

    assert set(FINDINGS) == {*doctor.FIXES, "healthy", "too_early"}
    assert FINDINGS["background_split"] in words(page(run))


def test_probes_shares_and_semantic_scores(run):
    value = {"mean": 0.25, "sem": 0.01, "n": 9}
    probes = record(metrics={"top1": value, "position_mse": value}, per_image={"position_mse": [0.1, 0.4, None]})
    (run / "eval" / "tetrominoes-test-properties.json").write_text(json.dumps(probes))
    shares = record(metrics={"so": value, "go": value}, per_image={"go": [0.2, 0.6]})
    (run / "eval" / "tetrominoes-test-so-po-go.json").write_text(json.dumps(shares))
    semantic = record(metrics={"semantic_miou": value | {"sem": None}, "iou_dog": value}, per_image={})
    (run / "eval" / "voc2012-test-semantic-clusters.json").write_text(json.dumps(semantic))
    text = words(page(run))
    for expected in ("25.0 ± 1.0 n = 9 position MSE", "read from its slot. 0.25 ± 0.010", "SO", "GO", "IoU dog"):
        assert expected in text, expected
    assert "counted over all images at once. 25.0 n = 9 IoU dog" in text
    assert "Worst images: 1 (0.4), 0 (0.1)" in text
    assert "Worst images: 1 (60.0), 0 (20.0)" in text


def test_each_metric_may_have_a_protocol_of_its_own(run):
    rules = {"fg_ari": "foreground only", "mse_sum": "sum over pixels"}
    (run / "eval" / "tetrominoes-test-oclf.json").write_text(json.dumps(record(protocol=rules, rules="All rules.")))
    text = words(page(run))
    assert "metric foreground only sum over pixels FG-ARI" in text
    assert "86.1 ± 1.3 summed squared error" in text
    assert "All rules." in text


def test_a_metric_without_a_protocol_says_so(run):
    (run / "eval" / "tetrominoes-test-oclf.json").write_text(json.dumps(record(protocol=None)))
    assert "FG-ARI 86.1 % ± 1.3 Rules: rules not stated." in words(page(run))


def test_the_verdict_comes_first_with_evidence_and_fix(run):
    text = words(page(run))
    assert text.index("Notes: background split") < text.index("Pictures") < text.index("All scores")
    assert "3.6 slots share the background (threshold 1.6). What helps Use fewer slots. Examined at step 7000." in text
    assert 'class="card verdict note"' in page(run)


def test_title_and_facts(run):
    text = words(page(run))
    start = "my run: notes: background split my run method Slot Attention data drawn Tetrominoes steps 7,000 of 7,000"
    assert text.startswith(start + " time 12 min seed 3")


def test_it_prints_without_empty_pages(run, tmp_path):
    """What is folded below a picture is not printed, and settings longer than a page go on on the next."""
    path = chromium()
    (run / "run.yaml").write_text((run / "run.yaml").read_text() + "".join(f"option_{k}: {k}\n" for k in range(90)))
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto(write_report(run).as_uri())
        printed = tab.pdf(format="A4")
        browser.close()
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) <= 7


def test_samples_are_sorted_worst_first(run):
    text = words(page(run))
    assert "Sorted by FG-ARI, worst first." in text
    assert text.index("Image 11 FG-ARI 25.0") < text.index("Image 4 FG-ARI 90.0")


def test_high_error_is_worst(run):
    index = json.loads((run / "samples" / "index.json").read_text())
    for row, mse in zip(index["rows"], (7.0, 2.0), strict=True):
        row["scores"] = {"mse_sum": mse}
    (run / "samples" / "index.json").write_text(json.dumps(index))
    text = words(page(run))
    assert text.index("Image 4 summed squared error 7") < text.index("Image 11 summed squared error 2")


def test_all_pictures_are_inside(run):
    checker = Checker.of(page(run))
    assert len(checker.addresses) == 2 * (4 + 2 + 2 + 4) + 2
    assert all(address.startswith("data:image/png;base64,") for address in checker.addresses)
    decoded = {base64.b64decode(address.partition(",")[2]) for address in checker.addresses}
    assert decoded == {png("red"), png("blue")}
    assert checker.images_without_text == 0


def test_pictures_with_the_numbers_of_slots_come_first_and_the_rest_is_folded(run):
    index = json.loads((run / "samples" / "index.json").read_text())
    (run / "samples" / "overlay.png").write_bytes(png("green"))
    index["rows"] = [index["rows"][0] | {"index": k, "overlay": "overlay.png"} for k in range(8)]
    (run / "samples" / "index.json").write_text(json.dumps(index))
    open_part, folded = page(run), 1
    while folded:
        open_part, folded = re.subn(r"<details(?:(?!<details).)*?</details>", "", open_part, flags=re.DOTALL)
    pictures = re.findall(r'alt="([^"]*)"', open_part)
    assert len(pictures) == 12
    assert pictures[:2] == ["input, image 0", "its slots, image 0"]
    assert page(run).count('alt="its slots, image') == 8


def test_the_page_stays_below_three_megabytes(run):
    """Large pictures find no room; those that come first are there, and the page says how many are not."""
    noise = Image.effect_noise((700, 700), 90)
    for name in ("input", "part0", "part1", "attn"):
        noise.save(run / "samples" / f"{name}.png")
    shown = page(run)
    assert 1_500_000 < len(shown.encode()) < 3_000_000
    assert 'alt="input, image 11"' in shown
    assert re.search(r"\d+ pictures were left out, so that the page stays below 3 MB", words(shown))
    assert 'iteration 2, image 4"' not in shown


def test_nothing_is_loaded_from_anywhere(run):
    text = page(run)
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & set(Checker.of(text).tags)
    assert "default-src 'none'" in text


def test_curves(run):
    text = page(run)
    assert "eval/fg_ari" not in text  # one evaluation is no curve; its score stands above
    rows = [{"step": 3500, "eval/fg_ari": 0.8, "eval/images": 320.0}]
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    text = page(run)
    assert 'aria-label="loss by training step, logarithmic scale. loss/recon ends at 1.428e-4"' in text
    assert (
        'aria-label="FG-ARI by training step. FG-ARI ends at 80"' not in text
    )  # named by its metric, drawn by its key
    assert 'aria-label="FG-ARI by training step. eval/fg_ari ends at 80"' in text
    assert 'aria-label="lr by training step. lr ends at 4e-4"' in text
    assert "eval/images" not in text  # how many were scored is no curve


def test_total_is_drawn_where_it_differs_from_the_terms(run):
    rows = [{"step": s, "loss/a": 1.0, "loss/b": 2.0, "total": 2.0 + s} for s in range(3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "loss/a ends at 1; loss/b ends at 2; total ends at 4" in page(run)


def test_settings_and_environment(run):
    text = words(page(run))
    assert "optimizer.lr 0.0004" in text
    assert "method.image_size 35, 35" in text
    assert "torch 2.13.0 gpu.name none" in text


NASTY = "</style><script>alert('x')</script>\"'><img src=x onerror=alert(1)>"


def test_text_is_escaped_everywhere(run):
    quoted = json.dumps(NASTY)
    (run / "run.yaml").write_text(f"{quoted}: {quoted}\nmethod: {{kind: {quoted}}}\nseed: {quoted}\n")
    (run / "env.json").write_text(f"{{{quoted}: {quoted}}}")
    (run / "eval" / "doctor.json").write_text(
        json.dumps(
            {
                "verdict": NASTY,
                "step": NASTY,
                "findings": [dict.fromkeys(("name", "severity", "evidence", "fix"), NASTY)],
            }
        )
    )
    (run / "eval" / "tetrominoes-test-oclf.json").write_text(
        json.dumps(
            record(data=NASTY, protocol=NASTY, rules=NASTY, metrics={NASTY: {"mean": 1}}, per_image={NASTY: [1, 2]})
        )
    )
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, NASTY: 2, f"loss/{NASTY}": 1, "total": 3}) + "\n")
    index = json.loads((run / "samples" / "index.json").read_text())
    index["rows"][0] |= {"index": NASTY, "scores": {NASTY: 0.5}, "input": NASTY, "colors": [f"red;{NASTY}"]}
    (run / "samples" / "index.json").write_text(json.dumps(index))
    text = page(run)
    checker = Checker.of(text)  # it also fails on any attribute like onerror
    assert "script" not in checker.tags
    assert "x" not in checker.addresses
    assert "red;" not in text
    assert words(text).count(NASTY) > 10


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/hostname", "text.png", "absent.png", "folder", "a\0b", 7, None, ["x"]]
)
def test_only_pictures_of_the_run_are_embedded(run, name):
    (run / "secret.png").write_bytes(png("green"))
    (run / "samples" / "text.png").write_text("not a picture")
    (run / "samples" / "folder").mkdir()
    index = json.loads((run / "samples" / "index.json").read_text())
    index["rows"][0]["masks"] = [name, "mask1.png"]
    (run / "samples" / "index.json").write_text(json.dumps(index))
    text = page(run)
    assert base64.b64encode(png("green")).decode() not in text
    assert "is not shown" in words(text)
    assert len(Checker.of(text).addresses) == 25


PARTS = [
    "run.yaml",
    "env.json",
    "metrics.jsonl",
    "eval/tetrominoes-test-oclf.json",
    "eval/doctor.json",
    "samples/index.json",
]


@pytest.mark.parametrize("part", PARTS)
def test_every_part_may_be_missing(run, part):
    (run / part).unlink()
    text = page(run)
    Checker.of(text)
    assert "What could not be read" not in text


BROKEN = [
    "",
    "{",
    "[1, 2",
    "[]",
    "3",
    '"text"',
    "null",
    '{"rows": 3}',
    '{"rows": [3, {"parts": 3}]}',
    "\x00",
    '{"findings": 3}',
]
BROKEN += [
    '{"metrics": {"a": 3}, "per_image": []}',
    '{"metrics": 3, "per_image": {"a": 3}}',
    '{"findings": [3]}',
    "a: [b",
    '{"per_image": {"a": [1e308, -1e308]}, "step": 1e308}',
    '{"step": 1e308}\n{"step": -1e308, "total": 1}\n{"step": 1, "total": 2}\n',
    '{"protocol": "savi@6", "metrics": {"a": {"mean": 1' + 400 * "0" + "}}}",
    '{"data": "\\ud800", "verdict": "\\ud800", "platform": "\\ud800"}',
    900 * '{"a": ' + "1" + 900 * "}",
]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("text", BROKEN)
def test_every_part_may_be_damaged(run, part, text):
    (run / part).write_text(text)
    shown = page(run)
    Checker.of(shown)
    assert "my run" in shown


def test_binary_rubbish_is_survived(run):
    for part in PARTS:
        (run / part).write_bytes(bytes(range(256)))
    assert "What could not be read" in page(run)


def test_an_empty_folder_gives_a_page(tmp_path):
    text = words(page(tmp_path))
    for sentence in ("Not examined", "No evaluation yet", "No samples yet", "Too little was logged", "Not recorded"):
        assert sentence in text


def test_a_half_written_line_is_left_out_and_said(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7100, "total"')
    assert "metrics.jsonl: 1 of 72 lines were left out (line 72)." in words(page(run))


def test_numbers_that_are_none_are_survived(run):
    lines = ['{"step": 1, "total": NaN}', '{"step": 2, "total": null}', '{"step": 3, "total": 1e999}', '{"step": null}']
    lines += [
        '{"step": 4, "total": 1' + "0" * 400 + "}",
        '{"step": 5, "total": 0.25}',
        '{"step": 6, "total": 0.5, "text": "x", "list": [1]}',
    ]
    (run / "metrics.jsonl").write_text("\n".join(lines))
    text = page(run)
    assert "total ends at 0.5" in text
    assert "1 of 7 lines were left out (line 4)" in text


def test_the_page_is_replaced_whole(run):
    first = write_report(run)
    before = {path.name for path in run.iterdir()}
    assert write_report(run) == first
    assert {path.name for path in run.iterdir()} == before


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"nowhere is not a folder; give the folder of a run"):
        write_report(tmp_path / "nowhere")


def test_a_page_without_matplotlib_has_no_charts_and_says_so(run, monkeypatch):
    monkeypatch.setattr(report, "can_draw", lambda: False)
    text = page(run)
    assert "<svg" not in text
    assert "Charts are drawn by matplotlib, which was missing: pip install matplotlib." in words(text)


def test_torch_is_not_imported():
    code = "import sys, slotworks.reports; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
