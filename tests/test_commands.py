"""The command `minicnn`: what it lists, what each of its commands does, and mistakes told in one line."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minicnn import BatchNorm, Dense, Flatten, Sequential, __version__, load, load_fashion_mnist, metrics, use_backend
from minicnn.__main__ import COMMANDS
from minicnn.__main__ import main as minicnn
from minicnn.commands import evaluate, train
from minicnn.data import duplicates
from minicnn.data.dataset import Dataset
from minicnn.data.sources import SAMPLE_FOLDER
from minicnn.recipes import RECIPES


@pytest.fixture(autouse=True)
def numpy_backend():
    use_backend("numpy")
    yield
    use_backend("numba")


@pytest.fixture
def model(tmp_path):
    """(a model with random weights, its file)."""
    made = Sequential([Flatten(), Dense(10)], seed=3)
    made.scale.learn(load_fashion_mnist("sample", verbose=False).train_images)
    made.save(tmp_path / "model.npz")
    return made, str(tmp_path / "model.npz")


def test_without_a_command_all_are_listed(capsys):
    assert minicnn([]) == 2
    listed = capsys.readouterr().out
    for name, (_, does) in COMMANDS.items():
        assert name in listed and does.split()[0] in listed


def test_it_tells_its_version(capsys):
    with pytest.raises(SystemExit) as ended:
        minicnn(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"minicnn {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_help_that_names_it(name, capsys):
    with pytest.raises(SystemExit) as ended:
        minicnn([name, "--help"])
    assert ended.value.code == 0
    assert name in capsys.readouterr().out.splitlines()[0]


def test_evaluate_tells_what_the_model_scores_class_by_class(model, tmp_path, capsys):
    made, path = model
    data = load_fashion_mnist("sample", verbose=False)
    predicted = made.predict_classes(data.test_images)
    assert minicnn(["evaluate", path, "--data", "sample", "--out", str(tmp_path / "pictures")]) == 0
    told = capsys.readouterr().out
    accuracy = np.mean(predicted == data.test_labels)
    assert f"test accuracy {accuracy:.2%}" in told and "ONLY A SAMPLE" not in told
    recall = metrics.per_class(data.test_labels, predicted, data.class_names)["Ankle boot"]["recall"]
    (line,) = [line for line in told.splitlines() if line.startswith("Ankle boot")]
    assert f"{recall:.1%}" in line
    assert {p.name for p in (tmp_path / "pictures").iterdir()} == {
        "errors.png",
        "confusion.png",
        "mistakes.png",
        "reliability.png",
    }


def test_evaluate_tells_mistakes_in_one_line(model, tmp_path, capsys):
    assert minicnn(["evaluate", str(tmp_path / "none.npz")]) == 1
    assert minicnn(["evaluate", model[1], "--data", "nowhere"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("none.npz: no such file") and second.startswith("error: nowhere: no such folder")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of a folder of pictures for each class, in a path with a space."""
    folder, rng = tmp_path_factory.mktemp("my photos"), np.random.default_rng(0)
    for name, colour in (("a sky", (40, 80, 230)), ("a wood", (20, 160, 40))):
        (folder / name).mkdir()
        for i in range(24):
            pixels = np.clip(rng.integers(-20, 20, (30, 40, 3)) + np.array(colour), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def test_a_folder_of_photos_is_trained_on_evaluated_and_predicted(photos, tmp_path, capsys):
    run = str(tmp_path / "run")
    arguments = ["--size", "8", "--epochs", "6", "--backend", "numpy", "--out", run]
    assert minicnn(["train", "--data", str(photos), *arguments]) == 0
    assert minicnn(["evaluate", f"{run}/model.npz", "--data", str(photos)]) == 0
    told = capsys.readouterr()
    assert "a wood" in told.out and "too few" not in told.err  # 38 images, but 30 steps
    files = [str(photos / "a sky" / "1.png"), str(photos / "a wood" / "2.png")]
    assert minicnn(["predict", f"{run}/model.npz", *files]) == 0
    sky, wood = capsys.readouterr().out.splitlines()
    assert sky.startswith(f"{files[0]}: a sky ") and wood.startswith(f"{files[1]}: a wood ")
    assert minicnn(["predict", f"{run}/model.npz", str(photos / "none.png")]) == 1
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith("none.png: cannot be read as an image: No such file or directory")
    )


def test_evaluate_scores_no_photo_that_train_learnt_from_whatever_its_seed(photos, tmp_path, monkeypatch):
    learnt = train.loaded(train.parsed(["--data", str(photos), "--size", "8", "--seed", "5"])).train_images
    Sequential([Flatten(), Dense(2)], (8, 8, 3)).save(tmp_path / "model.npz")
    seen = []
    monkeypatch.setattr(evaluate, "score", lambda model, data, results: seen.append(data) or 1 / 0)
    assert minicnn(["evaluate", str(tmp_path / "model.npz"), "--data", str(photos)]) == 1
    scored = seen[0].test_images
    assert len(learnt) + len(scored) == 48 and not duplicates(scored, among=learnt).any()


@pytest.fixture
def colours(tmp_path):
    """(the file of a model that tells red, green and blue, a function that makes a folder of such images)."""
    model = Sequential([Flatten(), Dense(3, use_bias=False)], (8, 8, 3))
    model.set_weights([np.tile(np.eye(3), (64, 1))])
    model.class_names = ["red", "green", "blue"]
    model.save(tmp_path / "colours.npz")

    def folder(name, classes):
        rng = np.random.default_rng(0)
        for called, channel in classes.items():
            (tmp_path / name / called).mkdir(parents=True)
            for i in range(6):
                pixels = rng.integers(0, 90, (8, 8, 3), dtype=np.uint8)
                pixels[..., channel] += 160
                Image.fromarray(pixels).save(tmp_path / name / called / f"{i}.png")
        return str(tmp_path / name)

    return str(tmp_path / "colours.npz"), folder


def test_evaluate_and_explain_know_classes_by_their_names(colours, tmp_path, capsys):
    path, folder = colours
    all_of_them, some = folder("all", {"blue": 2, "green": 1, "red": 0}), folder("some", {"blue": 2, "green": 1})
    for data in (all_of_them, some, folder("one", {"blue": 2})):
        assert minicnn(["evaluate", path, "--data", data, "--out", str(tmp_path / "pictures")]) == 0
        told = capsys.readouterr().out
        assert "test accuracy 100.00%" in told and "red" in told
        assert minicnn(["explain", path, "--data", data, "--out", str(tmp_path / "page.html")]) == 0
        assert ", blue, recognised as blue." in capsys.readouterr().out
    for command in ("evaluate", "explain"):
        assert minicnn([command, path, "--data", folder(command, {"abluee": 2, "green": 1})]) == 1
        said = capsys.readouterr().err
        assert said == f"error: {command} has abluee; the model knows red, green, blue\n"


def test_photos_without_pillow_are_told_in_one_line(colours, tmp_path, monkeypatch, capsys):
    path, folder = colours
    data = folder("images", {"red": 0, "blue": 2})
    monkeypatch.setitem(sys.modules, "PIL", None)
    for command in (["train", "--size", "8", "--out", str(tmp_path / "run")], ["evaluate", path], ["explain", path]):
        assert minicnn([*command, "--data", data]) == 1
    line = 'error: PIL is not installed: pip install "minicnn-numba[images]"'
    assert capsys.readouterr().err.splitlines() == [line] * 3


def test_a_model_without_names_takes_the_numbers_as_they_are(colours, capsys):
    path, folder = colours
    model = load(path)
    model.class_names = None
    model.save(path)
    assert minicnn(["evaluate", path, "--data", folder("two", {"a": 0, "b": 1})]) == 0
    told = capsys.readouterr().out
    assert "test accuracy 100.00%" in told and "class 2" in told
    assert minicnn(["evaluate", path, "--data", folder("four", {"a": 0, "b": 1, "c": 2, "d": 0})]) == 1
    assert capsys.readouterr().err == "error: four has 4 classes, the model knows 3\n"


def test_evaluate_and_explain_say_which_data_they_took(colours, model, capsys):
    path, folder = colours
    photos = folder("photos", {"red": 0, "blue": 2})
    assert minicnn(["evaluate", path, "--data", photos]) == 0
    said = capsys.readouterr().err
    assert said.endswith(f" of photos: image files in {photos}, of which training holds out about 20% for the test\n")
    assert minicnn(["explain", model[1], "--data", "sample", "--out", f"{photos}/page.html"]) == 0
    out, err = capsys.readouterr()
    assert "image 0 of Fashion-MNIST sample, " in out
    assert err == "data: 1,000 test images of Fashion-MNIST sample: bundled sample\n"


@pytest.mark.parametrize("command", ["evaluate", "explain"])
def test_a_model_of_photos_asked_about_fashion_mnist_wants_data(colours, command, capsys):
    path, _ = colours
    assert minicnn([command, path, "--data", "sample"]) == 1
    said = "Fashion-MNIST sample has images (28, 28, 1), the model takes (8, 8, 3): give such with --data"
    assert capsys.readouterr().err == f"error: {said}\n"


def test_predict_has_a_line_for_each_file_and_goes_on_after_one_that_is_broken(colours, tmp_path, capsys):
    path, folder = colours
    images = folder("x y", {"a": 0, "b": 2})
    red, blue = f"{images}/a/0.png", f"{images}/b/0.png"
    (tmp_path / "broken.png").write_text("no picture")
    files = [red, str(tmp_path / "broken.png"), str(tmp_path / "none.png"), blue]
    assert minicnn(["predict", path, "--top", "1", *files]) == 1
    out, err = capsys.readouterr()
    assert [line.rpartition(" ")[0] for line in out.splitlines()] == [f"{red}: red", f"{blue}: blue"]
    assert [line.partition(": cannot be read")[0] for line in err.splitlines()] == [
        f"error: {name}" for name in files[1:3]
    ]


def test_predict_warns_of_each_bright_edge_by_the_files_name(model, tmp_path, capsys):
    for name, ground in (("paper", 250), ("black", 5), ("another", 240)):
        Image.fromarray(np.full((28, 28), ground, np.uint8)).save(tmp_path / f"{name}.png")
    files = [str(tmp_path / f"{name}.png") for name in ("paper", "black", "another")]
    told = "bright edge, and the model was trained on dark images"
    assert minicnn(["predict", model[1], *files]) == 0
    hint = "if it is dark on white, try --invert"
    assert capsys.readouterr().err.splitlines() == [f"warning: {files[i]}: {told}; {hint}" for i in (0, 2)]
    assert minicnn(["predict", model[1], "--invert", *files]) == 0
    assert capsys.readouterr().err == f"warning: {files[1]}: {told}; try it without --invert\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["sample", "--size", "64"],
            "size: got 64, and Fashion-MNIST sample has 28 x 28 pixels: size is for a folder",
        ),
        (["{}/one", "--size", "8"], "{}/one: got one class, only this, expected at least two"),
        (
            ["{}/few", "--size", "8", "--validation", "0.01"],
            "validation=0.01 is 0.12 of 12 images, expected 1 to 11: give",
        ),
        (["{}/few"], "{}/few: neither CSV files such as"),
        (["emnist"], "emnist: no such folder; the source is one of emnist/byclass, emnist/bymerge, emnist/balanced, "),
    ],
)
def test_data_that_do_not_do_are_told_in_one_line(options, said, colours, tmp_path, capsys):
    colours[1]("one", {"only this": 1})
    for part in ("few/train", "few/test"):
        colours[1](part, {"a": 1, "b": 2})
    asked = [option.format(tmp_path) for option in options]
    assert minicnn(["train", "--data", *asked, "--backend", "numpy", "--out", str(tmp_path / "run")]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("data: ")]
    assert line.startswith(f"error: {said.format(tmp_path)}")


def test_a_file_where_a_folder_is_to_be_is_told_in_one_line(colours, tmp_path, capsys):
    path, folder = colours
    data = folder("images", {"red": 0, "blue": 2})
    commands = ["train", "--size", "8"], ["evaluate", path]
    for command, out in zip(commands, (path, f"{path}/run"), strict=True):
        assert minicnn([*command, "--data", data, "--out", out]) == 1
        line = capsys.readouterr().err.splitlines()[-1]
        assert line == f"error: {out}: expected a folder, and a file is in the way"
    assert minicnn(["explain", path, "--data", data, "--out", str(tmp_path / "new" / "page.html")]) == 0
    assert (tmp_path / "new" / "page.html").exists()


def test_a_size_of_csv_files_is_refused(capsys):
    with pytest.raises(SystemExit):
        minicnn(["train", "--train-csv", "a.csv", "--test-csv", "b.csv", "--size", "64"])
    assert "--size: it is for a folder of images, and --train-csv" in capsys.readouterr().err


def test_what_the_readmes_program_saves_is_predicted_by_name(tmp_path, monkeypatch, capsys):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    program = readme.split("## Use it")[1].split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINICNN_DATA", str(SAMPLE_FOLDER))
    exec(program.replace("epochs=3", "epochs=1, verbose=False"), {})
    data = load_fashion_mnist("sample", verbose=False)
    Image.fromarray(data.test_images[0, :, :, 0]).save("one.png")
    capsys.readouterr()
    assert minicnn(["predict", "model.npz", "one.png", "--top", "10"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in data.class_names)


def test_digits_are_not_mirrored_and_other_recipes_want_their_own_size(tmp_path):
    image = np.zeros((1, 28, 28, 1), np.uint8)
    digits = Dataset("MNIST", "here", image, np.zeros(1, int), image, np.zeros(1, int), False, ("0", "1"))
    options = train.parsed(["--out", str(tmp_path)])
    assert not train.recipe_for(options, digits).augment.horizontal_flip
    assert train.recipe_for(options, replace(digits, name="Fashion-MNIST")).augment.horizontal_flip
    small = replace(digits, train_images=image[:, :16, :16])
    with pytest.raises(ValueError, match="--recipe: got record, whose network takes 28 x 28 grey images"):
        train.recipe_for(train.parsed(["--out", str(tmp_path), "--recipe", "record"]), small)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_few_images_make_small_batches_and_the_sample_and_the_full_data_the_recipes_own(recipe):
    for count in (60_000, 2_000):
        assert recipe.batch_for(count - round(count * recipe.validation)) == recipe.batch_size
    assert [recipe.batch_for(count) for count in (1, 20, 138, 1_000)] == [8, 8, 9, 71]


@pytest.mark.parametrize(
    ("images", "epochs", "batch_size", "told"),
    [
        (38, 2, 128, "38 training images in batches of 128 make 2 steps in all, too few for batch normalisation"),
        (38, 29, 128, "give --epochs 30 or a smaller --batch-size"),
        (304, 2, 128, "give --epochs 10 or a smaller --batch-size"),
        (38, 30, 128, None),
        (304, 3, 32, None),
    ],
)
def test_too_few_steps_for_batch_normalisation_are_told(images, epochs, batch_size, told, capsys):
    with_norm = Sequential([Flatten(), Dense(3), BatchNorm()], (4, 4, 1))
    train.warn_of_few_steps(with_norm, images, epochs, batch_size)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (told is not None) and all(told in line for line in lines)
    train.warn_of_few_steps(Sequential([Flatten(), Dense(3)], (4, 4, 1)), images, epochs, batch_size)
    assert capsys.readouterr().err == ""
