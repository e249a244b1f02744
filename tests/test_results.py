"""Our own numbers: records are whole, and the tables in the pages are those of the records."""

import importlib.util
import json
import re
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from slotworks.configs import find, recipes
from slotworks.errors import UserError

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("results", ROOT / "docs" / "results.py")
assert spec
results = importlib.util.module_from_spec(spec)
spec.loader.exec_module(results)  # type: ignore[union-attr]

RECORDS = sorted(path.stem for path in results.FOLDER.glob("*.json"))
PAGES = [page for page in results.PAGES if results.rows_of(page.read_text())]


@pytest.mark.parametrize("recipe", RECORDS)
def test_records_are_of_a_recipe_and_whole(recipe):
    assert recipe in recipes()
    records = results.read(recipe)
    path = results.FOLDER / f"{recipe}.json"
    assert results.dump(records) == path.read_text()
    for record in records:
        if record["name"] == "" and record["measured"] == results.EVALUATED:
            assert record["settings"] == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_records(page):
    """After a change of a record: `python docs/results.py`."""
    text = page.read_text()
    assert results.fill(text) == text
    if any(results.find(row)["measured"] == results.EARLIER for row in results.rows_of(text)):
        assert results.FOOT in " ".join(text.split())


SAID = {  # numbers in sentences: {RECORD METRIC}, or {RECORD METRIC - RECORD METRIC}
    "README.md": ["FG-ARI {slot_attention.tetrominoes_mini fg_ari}", "{slot_attention.tetrominoes_long_mini fg_ari}"],
    "docs/methods/baselines.md": [
        "FG-ARI {blocks.scenes_mini fg_ari} on the drawn scenes of the miniatures",
        "ARI {blocks.scenes_mini ari}, mBO_i {blocks.scenes_mini mbo_i} and mIoU_i {blocks.scenes_mini miou_i} are not",
        "{blocks.videos_mini fg_ari} and {blocks.savi_mini fg_ari}",
    ],
    "docs/methods/dinosaur.md": [
        "Against k-means, the margins of the first round's attention are {dinosaur.photos_mlp "
        "oclf[attention]/fg_ari - feature_kmeans.photos fg_ari} in FG-ARI, {dinosaur.photos_mlp "
        "oclf[attention]/mbo_i - feature_kmeans.photos mbo_i} in mBO_i and {dinosaur.photos_mlp "
        "oclf[attention]/ari - feature_kmeans.photos ari} in ARI, and {dinosaur.photos_mlp oclf[attention]/fg_ari"
        " - feature_kmeans.photos#smooth fg_ari}, {dinosaur.photos_mlp oclf[attention]/mbo_i - "
        "feature_kmeans.photos#smooth mbo_i} and {dinosaur.photos_mlp oclf[attention]/ari - "
        "feature_kmeans.photos#smooth ari} against the smooth one;",
        "those of its decoder's masks {dinosaur.photos_mlp oclf/fg_ari - feature_kmeans.photos fg_ari}, "
        "{dinosaur.photos_mlp oclf/mbo_i - feature_kmeans.photos mbo_i} and {dinosaur.photos_mlp oclf/ari - "
        "feature_kmeans.photos ari}.",
        "Those of the second round's attention are {dinosaur.photos_mlp_round2 oclf[attention]/fg_ari - "
        "feature_kmeans.photos fg_ari}, {dinosaur.photos_mlp_round2 oclf[attention]/mbo_i - feature_kmeans.photos"
        " mbo_i} and {dinosaur.photos_mlp_round2 oclf[attention]/ari - feature_kmeans.photos ari}, and "
        "{dinosaur.photos_mlp_round2 oclf[attention]/fg_ari - feature_kmeans.photos#smooth fg_ari}, "
        "{dinosaur.photos_mlp_round2 oclf[attention]/mbo_i - feature_kmeans.photos#smooth mbo_i} and "
        "{dinosaur.photos_mlp_round2 oclf[attention]/ari - feature_kmeans.photos#smooth ari}; of its decoder's "
        "masks {dinosaur.photos_mlp_round2 oclf/fg_ari - feature_kmeans.photos fg_ari}, "
        "{dinosaur.photos_mlp_round2 oclf/mbo_i - feature_kmeans.photos mbo_i} and {dinosaur.photos_mlp_round2 "
        "oclf/ari - feature_kmeans.photos ari}.",
        "On the photographs the first round is {dinosaur.photos_mlp oclf[attention]/mbo_i_fewest - "
        "feature_kmeans.photos mbo_i_fewest} above k-means, the second {dinosaur.photos_mlp_round2 "
        "oclf[attention]/mbo_i_fewest - feature_kmeans.photos mbo_i_fewest}, and {dinosaur.photos_mlp_round2 "
        "oclf[attention]/mbo_i_fewest - feature_kmeans.photos#smooth mbo_i_fewest} above the smooth one; eight "
        "slots of which similar ones are joined are {dinosaur.photos_mlp_round2 oclf[attention]~0.9/mbo_i_fewest "
        "- feature_kmeans.photos#smooth mbo_i_fewest} (cosine 0.9) and {dinosaur.photos_mlp_round2 "
        "oclf[attention]~0.95/mbo_i_fewest - feature_kmeans.photos#smooth mbo_i_fewest} (0.95) above it.",
        "With the Transformer decoder attention is {dinosaur.photos_transformer oclf[attention]/fg_ari - "
        "feature_kmeans.photos fg_ari}, {dinosaur.photos_transformer oclf[attention]/mbo_i - "
        "feature_kmeans.photos mbo_i} and {dinosaur.photos_transformer oclf[attention]/ari - "
        "feature_kmeans.photos ari} above k-means, on the photographs {dinosaur.photos_transformer "
        "oclf[attention]/mbo_i_fewest - feature_kmeans.photos mbo_i_fewest} above it.",
    ],
    "docs/methods/slot_diffusion.md": ["FG-ARI {slot_diffusion.scenes_mini fg_ari}"],
    "docs/methods/spot.md": [
        "Attention of the first stage is {spot.photos oclf[attention]/fg_ari - feature_kmeans.photos fg_ari} "
        "above k-means in FG-ARI, {spot.photos oclf[attention]/mbo_i - feature_kmeans.photos mbo_i} in mBO_i and "
        "{spot.photos oclf[attention]/ari - feature_kmeans.photos ari} in ARI, of the second {spot.photos_stage2 "
        "oclf[attention]/fg_ari - feature_kmeans.photos fg_ari}, {spot.photos_stage2 oclf[attention]/mbo_i - "
        "feature_kmeans.photos mbo_i} and {spot.photos_stage2 oclf[attention]/ari - feature_kmeans.photos ari};",
        "On the photographs the second stage is {spot.photos_stage2 oclf[attention]/mbo_i_fewest - "
        "feature_kmeans.photos mbo_i_fewest} above k-means where the person with the fewest segments counts,",
    ],
    "docs/results.md": [
        "seed 3, which chose nothing: FG-ARI {dinosaur.scenes_mini#seed-3 oclf/fg_ari}, "
        "mBO_i {dinosaur.scenes_mini#seed-3 oclf/mbo_i}, mIoU_i {dinosaur.scenes_mini#seed-3 oclf/miou_i}, "
        "ARI {dinosaur.scenes_mini#seed-3 oclf/ari}; attention {dinosaur.scenes_mini#seed-3 oclf[attention]/fg_ari} "
        "and {dinosaur.scenes_mini#seed-3 oclf[attention]/mbo_i}; "
        "k-means again {feature_kmeans.scenes_mini fg_ari} and {feature_kmeans.scenes_mini mbo_i}.",
        "FG-ARI of the attention of `set_prediction.scenes_mini`: {set_prediction.scenes_mini fg_ari};",
        "Slot MLP reaches {slot_mlp.scenes_mini#9000-steps ap_inf} / {slot_mlp.scenes_mini#9000-steps ap_1} / "
        "{slot_mlp.scenes_mini#9000-steps ap_0.5} / {slot_mlp.scenes_mini#9000-steps ap_0.25},",
        "has {savi.frames_mini fg_ari} over 24 frames",
        "(ARI {slot_attention.multi_dsprites_mini#noise-on-slots ari})",
        "part slots {glass.scenes_recon_mini part_slots} with reconstruction alone, {glass.scenes_mini part_slots}",
        "slots with one object {glass.scenes_recon_mini single_object_slots}",
        "and {glass.scenes_mini single_object_slots}. Of five slots",
    ],
    "docs/notes/slot_attention.md": [
        "FG-ARI {slot_attention.tetrominoes_mini#decoder-masks fg_ari ±} (standard error over 320 test images)",
        "FG-ARI {slot_attention.tetrominoes_long_mini#seed-0 fg_ari})",
    ],
    "docs/notes/glass.md": [
        "StableLSD (mIoU_i {glass.scenes_recon_mini#demo miou_i}, mBO_i {glass.scenes_recon_mini#demo mbo_i}), "
        "GLASS ({glass.scenes_mini#demo miou_i}, {glass.scenes_mini#demo mbo_i})",
        "went with their objects: {glass.scenes_phase2_mini removal/success} %",
        "{glass.scenes_phase2_mini#3000-steps-spare-slots-out success} and "
        "{glass.scenes_phase2_mini#3000-steps-spare-slots-out shown}).",
    ],
}


@pytest.mark.parametrize("page", SAID)
def test_numbers_in_sentences_are_those_of_the_records(page):
    text = " ".join((ROOT / page).read_text().split())
    for said in SAID[page]:

        def number(match):
            record, key, *rest = match[1].split()
            value = results.metric(results.find(record), key)
            if rest[:1] == ["-"]:
                value = {"mean": value["mean"] - results.metric(results.find(rest[1]), rest[2])["mean"]}
                rest = []
            return results.written(key.rpartition("/")[2], value, error=bool(rest)).partition(" (")[0]

        assert re.sub(r"\{(.+?)\}", number, said) in text, said


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    return tmp_path


def record(**changed):
    metrics = {"fg_ari": {"mean": 0.9723, "std": 0.0016, "seeds": [0.9741, 0.971]}, "mse_sum": {"mean": 39.46}}
    evaluation = {"protocol": "oclf", "data": "d", "split": "test", "num_images": 2, "metrics": metrics}
    others = {"date": "2020-01-01", "commit": None, "machine": None, "command": None}
    plain = {
        "name": "",
        "settings": {},
        "measured": results.EVALUATED,
        "seeds": [3, 4],
        "seconds": [90, 30.2],
        **others,
    }
    return {**plain, "evaluations": [evaluation], **changed}


def test_a_table(folder):
    further = {"protocol": "savi@12", "data": "d", "split": "test", "num_images": 2}
    further["metrics"] = {"fg_ari": {"mean": 0.5, "sem": 0.01}}
    second = record(name="x", measured=results.EARLIER, evaluations=[further], remarks={"agrees": "yes"})
    (folder / "a.b.json").write_text(results.dump([record(), second]))
    page = "A.\n\n<!-- records: recipe, fg_ari, agrees, training = minutes, mse_sum, 12 ± = @12/fg_ari\na.b\n"
    page += "a.b#x [savi] = other\n-->\nold\n<!-- end of records -->\nB.\n"
    made = results.fill(page)
    assert made.splitlines()[7:] == [
        "| recipe | FG-ARI | agrees | training | squared error | 12 ± |",
        "| --- | --- | --- | --- | --- | --- |",
        "| `a.b` | 97.2 ± 0.2 (97.4, 97.1) |  | 1.5, 0.5 | 39.5 |  |",
        "| other † |  | yes | 1.5, 0.5 |  | 50.0 ± 1.0 |",
        "",
        "<!-- end of records -->",
        "B.",
    ]
    assert results.fill(made) == made
    assert results.rows_of(page) == ["a.b", "a.b#x"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"measured": "yes"}, "measured is 'yes'; expected 'slotworks evaluate' or 'earlier, no record kept'"),
        ({"more": 1}, "has keys that no record has: more"),
        ({"seeds": [1]}, "fg_ari has another number of values than there are seeds"),
    ],
)
def test_what_is_no_record_is_refused(folder, changed, said):
    (folder / "a.b.json").write_text(json.dumps([record(**changed)]))
    with pytest.raises(UserError, match=said):
        results.read("a.b")
    (folder / "a.b.json").write_text(json.dumps([record(), record()]))
    with pytest.raises(UserError, match="two records of one name"):
        results.read("a.b")
    (folder / "a.b.json").write_text(json.dumps([record()]))
    with pytest.raises(UserError, match="has no record 'z'; the known ones are ''"):
        results.find("a.b#z")


def test_a_record_is_collected_from_run_folders(folder, tmp_path):
    with tarfile.open(ROOT / "tests" / "fixtures" / "runs_1" / "runs.tar.xz") as archive:
        members = [member for member in archive.getmembers() if member.name.startswith("runs/seeds")]
        archive.extractall(tmp_path, members, filter="data")
    runs = tmp_path / "runs" / "seeds"
    recipe = "slot_attention.tetrominoes_mini"
    path = results.add([runs], recipe=recipe, name="tiny", machine="a machine")
    (found,) = results.read(recipe)
    assert path == folder / f"{recipe}.json"
    assert (found["name"], found["seeds"], found["machine"]) == ("tiny", [0, 1], "a machine")
    assert found["settings"]["method.channels"] == 2
    assert [one["protocol"] for one in found["evaluations"]] == ["slot-attention", "oclf"]
    summary = json.loads((runs / "summary.json").read_text())["summary"]["fg_ari"]
    assert results.metric(found, "fg_ari") == {
        "mean": pytest.approx(summary["mean"], abs=1e-6),
        "std": pytest.approx(summary["std"], abs=1e-6),
        "seeds": pytest.approx(summary["seeds"], abs=1e-6),
    }
    results.add([runs], recipe=recipe, name="tiny", machine="another")
    assert [one["machine"] for one in results.read(recipe)] == ["another"]
    with pytest.raises(UserError, match=r"was made by 'train mine.py:mine .*', which names no recipe; give --recipe"):
        results.collect([runs])
    with pytest.raises(UserError, match="does not say on which processor it was made; give --machine"):
        results.collect([runs], recipe=recipe)
    shutil.rmtree(runs / "seed1" / "eval")
    with pytest.raises(UserError, match="holds no evaluation that all runs have"):
        results.collect([runs], recipe=recipe, machine="a machine")


def test_a_teacher_of_the_same_seed_is_the_run_of_its_recipe():
    own = find("dinosaur.photos_mlp_round2")()
    for folder, differing in (("/seed2", {}), ("/seed1", {"method.teacher": f"{own.method.teacher}/seed1"})):
        method = replace(own.method, teacher=f"{own.method.teacher}{folder}")
        assert results._different(own, replace(own, seed=2, method=method)) == differing
