"""The command line: parse, call, save. Reading the commands from top to bottom reads the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from canon import console
from canon.errors import InputError

PIPELINE = (
    *("demo", "backbone", "zoo", "canonicalize", "train", "sample", "evaluate", "report"),
    *("fuse", "enhance", "export"),
)


class InPipelineOrder(TyperGroup):
    """Lists commands in the order in which data flows through them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=PIPELINE.index)


app = console.application(
    "Generate neural networks from words.\n\n"
    "tasks ─► zoo ─► canonicalize ─► train ─► sample ─► evaluate ─► report",
    InPipelineOrder,
)
backbone_app = typer.Typer(
    help="Frozen networks whose features heads and adapters are trained on: train, take.",
    no_args_is_help=True,
)
zoo_app = typer.Typer(
    help="Populations of trained networks: build, import, inspect, verify.", no_args_is_help=True
)

Seed = Annotated[int | None, typer.Option(help="Seed of everything random in this step.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one setting, for instance [bold]--set steps=500[/]. May be repeated."),
]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Two runs with one seed on one machine are identical.")] = 0,
    as_json: bool = console.JSON,
) -> None:
    """The whole pipeline on the digits that scikit-learn ships, in a few minutes.

    Every step is an ordinary command and is shown as you would type it. Stopped? Run it again: it goes
    on where it was.
    """
    from weightflow.demo import run_demo

    run_demo(app, out, seed, as_json)


app.add_typer(backbone_app, name="backbone")


@backbone_app.command("train")
def backbone_train(
    dataset: Annotated[str, typer.Argument(help="A data set of images.")],
    out: Annotated[Path, typer.Option(help="File of the backbone.")],
    exclude: Annotated[
        str | None, typer.Option(help="Classes that it shall never see, separated by commas.")
    ] = None,
    seed: Seed = None,
    settings: Settings = None,
    as_json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Train a backbone on a data set's training images, a residual network with 512 features.

    Example: [bold]weightflow backbone train cifar100 --exclude "chair, wolf" --out backbone.safetensors[/]
    """
    from canon.checkpoint import check_suffix
    from weightflow import config, datasets
    from weightflow.backbones.train import BackboneRecipe, steps_of, train_backbone

    check_suffix(out)
    changes = config.replace_nested(config.dotted(settings or []), {"seed": seed})
    recipe, data = config.build(BackboneRecipe, changes), datasets.load(dataset)
    excluded = [part.strip() for part in exclude.split(",")] if exclude else []
    total = steps_of(data, recipe, excluded)
    with console.progress(total, "training the backbone", quiet=quiet) as steps:
        last = train_backbone(data, recipe, out, excluded, steps.advance)
    console.show(
        {"backbone": str(out), "validation_accuracy": last.accuracy, "excluded": excluded},
        f"{out}: validation accuracy {100 * last.accuracy:.1f} % on the classes it was trained on",
        as_json,
    )


@backbone_app.command("take")
def backbone_take(
    model: Annotated[str, typer.Argument(help="torchvision:NAME or timm:NAME.")],
    out: Annotated[Path, typer.Option(help="File of the backbone.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Weights of this model on this computer; the library's hub otherwise.")
    ] = None,
    as_json: bool = console.JSON,
) -> None:
    """Make a backbone of a pretrained model of torchvision or timm.

    Example: [bold]weightflow backbone take torchvision:resnet18 --out backbone.safetensors[/]
    """
    from canon.checkpoint import check_suffix
    from weightflow.backbones import take

    check_suffix(out)
    width = take(model, out, checkpoint).width
    console.show({"backbone": str(out), "features": width}, f"{out}: {width} features", as_json)


app.add_typer(zoo_app, name="zoo")


@zoo_app.command("build")
def zoo_build(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, or a TOML file.")],
    out: Annotated[Path, typer.Option(help="Folder of the zoo.")],
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the data set first; needs torchvision.")
    ] = False,
    executor: Annotated[str, typer.Option(help="Who trains the shards: local.")] = "local",
    workers: Annotated[int, typer.Option(help="Processes that train shards side by side.")] = 1,
    seed: Seed = None,
    settings: Settings = None,
    as_json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Train a population of networks. What is there and sound is kept, what is missing is trained.

    Example: [bold]weightflow zoo build digits --out zoos/digits[/]
    """
    from weightflow import config
    from weightflow.zoo.executors import build_with
    from weightflow.zoo.recipe import read_recipe
    from weightflow.zoo.store import Zoo

    changes = config.replace_nested(config.dotted(settings or []), {"seed": seed})
    plan = read_recipe(recipe, changes)
    if download:
        from weightflow.datasets.fetch import fetch

        console.say(f"data in {fetch(plan.dataset)}")
    total = plan.tasks.networks
    resume = f"finished shards are kept in {out}; run the same command again to go on"
    with console.on_interrupt(resume), console.progress(total, "training networks", quiet=quiet) as steps:
        trained = build_with(executor, plan, out, steps.advance, workers)
    result = {"zoo": str(out), "networks": len(Zoo(out)), "trained_now": trained}
    console.show(result, f"{out}: {len(Zoo(out))} networks, {trained} of them trained now", as_json)


@zoo_app.command("inspect")
def zoo_inspect(
    zoo: Annotated[Path, typer.Argument(help="Folder of a zoo.")], as_json: bool = console.JSON
) -> None:
    """Show what a zoo holds: architecture, lineage, splits, sizes, a histogram of accuracies."""
    from weightflow.zoo.inspect import inspect_zoo, picture
    from weightflow.zoo.store import Zoo

    found = inspect_zoo(Zoo(zoo))
    console.show(found, picture(found), as_json)


@zoo_app.command("verify")
def zoo_verify(
    zoo: Annotated[Path, typer.Argument(help="Folder of a zoo.")], as_json: bool = console.JSON
) -> None:
    """Check every shard against its hash. Exit code 1 where one is missing or damaged."""
    from weightflow.zoo.store import Zoo

    opened = Zoo(zoo)
    problems = opened.verify()
    sound = f"{zoo}: {len(opened)} networks in {len(opened.manifest['shards'])} shards, all sound"
    console.show({"sound": not problems, "problems": problems}, "\n".join(problems) or sound, as_json)
    if problems:
        raise typer.Exit(1)


@zoo_app.command("import")
def zoo_import(
    folder: Annotated[Path, typer.Argument(help="Folder of ordinary checkpoints of one architecture.")],
    out: Annotated[Path, typer.Option(help="Folder of the zoo.")],
    recipe: Annotated[
        str | None, typer.Option(help="A recipe whose architecture and data set they have.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set; the recipe's by default.")] = None,
    classes: Annotated[str | None, typer.Option(help="Classes in logit order, separated by commas.")] = None,
    lineage: Annotated[
        str, typer.Option(help="What is known of their origin: independent, branched or imported.")
    ] = "imported",
    settings: Settings = None,
    as_json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Make a zoo of a folder of checkpoints. A file that does not fit is named.

    Example: [bold]weightflow zoo import files --dataset digits --out zoos/mine[/]
    """
    from weightflow import config
    from weightflow.text import Prompt
    from weightflow.zoo.imports import checkpoint_files, import_zoo, own_architecture
    from weightflow.zoo.recipe import read_recipe

    files = checkpoint_files(folder)
    plan = read_recipe(recipe, config.dotted(settings or [])) if recipe else None
    name = dataset or (plan.dataset if plan else None)
    if name is None:
        raise InputError("name the data set whose classes they tell apart: --dataset, or --recipe")
    architecture = plan.make_architecture() if plan else own_architecture(files)
    asked = Prompt.parse(classes).classes if classes else None
    with console.progress(len(files), "reading networks", quiet=quiet) as steps:
        count = import_zoo(files, out, architecture, name, asked, lineage, progress=steps.advance)
    console.show({"zoo": str(out), "networks": count}, f"{out}: {count} networks", as_json)


@zoo_app.command("card")
def zoo_card(
    zoo: Annotated[Path, typer.Argument(help="Folder of a zoo.")], as_json: bool = console.JSON
) -> None:
    """Write the data-set card (README.md) that makes the folder publishable as it lies."""
    from weightflow.zoo.card import write_card
    from weightflow.zoo.store import Zoo

    path = write_card(Zoo(zoo))
    console.show({"card": str(path)}, str(path), as_json)


@app.command()
def canonicalize(
    zoo: Annotated[Path, typer.Argument(help="Folder of a zoo.")],
    out: Annotated[Path, typer.Option(help="Folder of the canonical zoo.")],
    as_json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Bring all networks of a zoo into one frame: balance scales, then match units to the mean.

    Every network keeps its function. The frame is stored with the zoo.
    """
    from weightflow.canonicalize import canonicalize_zoo, is_canonical_form_of
    from weightflow.zoo.store import Zoo

    opened = Zoo(zoo)
    if is_canonical_form_of(out, opened):
        console.show({"zoo": str(out), "done_before": True}, f"{out}: already canonical", as_json)
        return
    with console.progress(len(opened), "aligning networks", quiet=quiet) as steps:
        canonicalize_zoo(opened, out, steps.advance)
    console.show(
        {"zoo": str(out), "networks": len(opened)}, f"{out}: {len(opened)} networks in one frame", as_json
    )


@app.command()
def train(
    zoo: Annotated[Path, typer.Argument(help="Folder of a zoo, canonical if it is to learn well.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    preset: Annotated[str, typer.Option(help="Settings to begin from.")] = "weightflow",
    objective: Annotated[
        str | None, typer.Option(help="flow or diffusion: the path from noise to networks.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    seed: Seed = None,
    settings: Settings = None,
    as_json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Train the generator on a zoo. A stopped run goes on with [bold]--resume[/], bit for bit.

    Example: [bold]weightflow train zoos/canonical --out runs/digits[/]
    """
    from weightflow import config
    from weightflow import train as training
    from weightflow.presets import read_preset
    from weightflow.zoo.store import Zoo

    opened = Zoo(zoo)
    if resume and (out / "config.toml").exists():
        if settings or seed is not None or objective:
            console.say(f"going on with the settings in {out / 'config.toml'}")
        trainer = training.resume(opened, out)
    else:
        changes = config.replace_nested(
            config.dotted(settings or []), {"seed": seed, "objective": {"path": objective}}
        )
        trainer = training.start(opened, read_preset(preset, changes), out)
    on = f"the run is kept in {out}; go on with: weightflow train {zoo} --out {out} --resume"
    total, before = trainer.config.steps, trainer.progress.step
    with console.on_interrupt(on), console.progress(total, "training", done=before, quiet=quiet) as steps:
        done = trainer.run(steps.advance)
    result = {"run": str(out), "steps": done.step, "best_step": done.best_step, "held_out": done.best}
    console.show(
        result, f"{out}: {done.step} steps, held-out loss {done.best:.4f} at step {done.best_step}", as_json
    )


@app.command()
def sample(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[Path, typer.Option(help="Folder of the generated networks, a zoo.")],
    classes: Annotated[str | None, typer.Option(help="Classes in logit order, separated by commas.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="A file with one prompt a line; - reads standard input.")
    ] = None,
    count: Annotated[int, typer.Option(help="Networks for each prompt.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the first network; the next one has the next seed.")] = 0,
    steps: Annotated[int, typer.Option(help="Steps of the solver.")] = 4,
    method: Annotated[str, typer.Option(help="euler, midpoint, heun, rk4 or dopri5.")] = "euler",
    guidance: Annotated[float, typer.Option(help="Above 1 follows the prompt harder.")] = 1.0,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the nearest known class of each class.")
    ] = False,
    as_json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Generate networks from words.

    Example: [bold]weightflow sample runs/digits --classes "three, seven, nine" --count 8 --out nets[/]
    """
    from weightflow.population import generate_zoo, read_prompts
    from weightflow.sample import Flow, SampleConfig

    asked = read_prompts(classes, prompts)
    if count < 1:
        raise InputError(f"--count is {count}; ask for 1 network or more")
    flow = Flow(run)
    config = SampleConfig(method=method, steps=steps, guidance=guidance)
    neighbours = [n for prompt in asked for n in flow.neighbours(prompt)]
    unknown = {n.described: n for n in neighbours if n.described not in flow.known_classes}
    for near in unknown.values():
        console.say(
            f"'{near.described}' is not a class this run has seen; nearest: '{near.nearest}' "
            f"(cosine {near.cosine:.2f}). Accuracy is not promised"
        )
    if explain:
        for near in {n.described: n for n in neighbours}.values():
            console.say(f"{near.described}: nearest known class '{near.nearest}', cosine {near.cosine:.2f}")
    with console.progress(len(asked) * count, "generating", quiet=quiet) as bar:
        made = generate_zoo(flow, asked, count, seed, config, out, bar.advance)
    rate = made["networks"] / made["seconds"]
    text = f"{out}: {made['networks']} networks for {len(asked)} prompts, {rate:.0f} networks per second"
    console.show(made, text, as_json)


@app.command()
def evaluate(
    networks: Annotated[Path, typer.Argument(help="Folder of generated networks, or any zoo.")],
    as_json: bool = console.JSON,
) -> None:
    """Test accuracy of every network on real test images, beside chance."""
    from weightflow.evaluate import evaluate_zoo
    from weightflow.zoo.store import Zoo

    found = evaluate_zoo(Zoo(networks))
    lines = [
        f"{', '.join(p['classes'])}: {100 * p['mean']:.1f} ± {100 * p['std']:.1f} % over {p['networks']} networks"
        f" (chance {100 / len(p['classes']):.1f} %)"
        for p in found["prompts"][:20]
    ]
    more = len(found["prompts"]) - len(lines)
    a = found["zoo"]["accuracy"]
    lines += [f"... and {more} more prompts"] if more > 0 else []
    lines.append(f"all {found['zoo']['count']} networks: {100 * a['mean']:.1f} ± {100 * a['std']:.1f} %")
    console.show(found, "\n".join(lines), as_json)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the report; the run's own by default.")] = None,
    limit: Annotated[int, typer.Option(help="Tasks of each split at most.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the generated networks.")] = 0,
    steps: Annotated[int, typer.Option(help="Steps of the solver.")] = 4,
    method: Annotated[str, typer.Option(help="euler, midpoint, heun, rk4 or dopri5.")] = "euler",
    as_json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Measure a run against trained networks and baselines: report.json and report.html."""
    from canon.files import atomic_write
    from weightflow.page import rich_tables, write_page
    from weightflow.report import make_report, verdict
    from weightflow.sample import SampleConfig

    folder = out or run
    if limit < 1:
        raise InputError(f"--limit is {limit}; it must be at least 1")
    say = (lambda text: None) if quiet else console.say
    found = make_report(run, seed, limit, SampleConfig(method=method, steps=steps), say)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / "report.json", console.json_text(found))
    write_page(folder / "report.html", found)
    console.show(found, rich_tables(found), as_json)
    if not as_json:
        console.show({}, f"{verdict(found)}\n{folder / 'report.html'}", False)


@app.command()
def fuse(
    first: Annotated[Path, typer.Argument(help="A network file.")],
    second: Annotated[Path, typer.Argument(help="Another, for other classes; overlap is allowed.")],
    run: Annotated[Path, typer.Option(help="Folder of the run whose generator makes the union.")],
    out: Annotated[Path, typer.Option(help="File of the fused network.")],
    strength: Annotated[
        float, typer.Option(help="0 averages the two, 1 generates from the union's words alone.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    as_json: bool = console.JSON,
) -> None:
    """Make one network for the classes of two, from the words for their union.

    Shows test accuracy beside that of averaging the two in one frame (Git Re-Basin).
    """
    from weightflow.evaluate import judge
    from weightflow.fuse import fuse as fuse_networks
    from weightflow.network import read_network, write_network
    from weightflow.sample import Flow

    flow = Flow(run)
    dataset = flow.header.zoo.dataset
    a, b = (read_network(path, flow.architecture, dataset) for path in (first, second))
    made = fuse_networks(flow, a, b, strength, seed)
    figures = {
        name: float(judge(flow.architecture, state, [made.task]).accuracy)
        for name, state in (("fused", made.generated), ("average", made.average))
    }
    write_network(out, flow.architecture, made.generated, made.task.classes)
    text = (
        f"{out}: {', '.join(made.task.classes)}; test accuracy {100 * figures['fused']:.1f} %, "
        f"average of the two {100 * figures['average']:.1f} %, chance {100 / len(made.task.classes):.1f} %"
    )
    console.show({"network": str(out), "classes": made.task.classes, "accuracy": figures}, text, as_json)


@app.command()
def enhance(
    network: Annotated[Path, typer.Argument(help="A network file of the run's architecture.")],
    run: Annotated[Path, typer.Option(help="Folder of the run.")],
    out: Annotated[Path, typer.Option(help="File of the enhanced network.")],
    strength: Annotated[float, typer.Option(help="0 leaves it as it is, 1 makes it anew.")] = 0.5,
    classes: Annotated[
        str | None, typer.Option(help="Its classes in logit order, where the file does not say.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    as_json: bool = console.JSON,
) -> None:
    """Repair a weak network: partway to noise and back under its own words.

    Shows test accuracy before and after.
    """
    from weightflow.enhance import enhance as enhance_networks
    from weightflow.evaluate import judge
    from weightflow.network import read_network, write_network
    from weightflow.sample import Flow
    from weightflow.text import Prompt

    flow = Flow(run)
    prompt = None if classes is None else Prompt.parse(classes)
    given = read_network(network, flow.architecture, flow.header.zoo.dataset, prompt)
    made = enhance_networks(flow, given.state, [given.task], strength, [seed])
    before, after = (
        float(judge(flow.architecture, state, [given.task]).accuracy) for state in (given.state, made)
    )
    write_network(out, flow.architecture, made, given.prompt.classes)
    console.show(
        {"network": str(out), "accuracy": {"before": before, "after": after}},
        f"{out}: test accuracy {100 * before:.1f} % before, {100 * after:.1f} % after",
        as_json,
    )


@app.command()
def export(
    networks: Annotated[Path, typer.Argument(help="Folder of generated networks, or any zoo.")],
    out: Annotated[Path, typer.Option(help="Folder of the plain files.")],
    count: Annotated[int | None, typer.Option(help="How many; all by default.")] = None,
    as_json: bool = console.JSON,
) -> None:
    """Write networks as plain .safetensors files that load anywhere, one a network.

    The architecture and the classes are in each file's metadata.
    """
    from weightflow.export import export_zoo
    from weightflow.zoo.store import Zoo

    files = export_zoo(Zoo(networks), out, count)
    console.show({"files": [str(f) for f in files]}, f"{out}: {len(files)} networks", as_json)


def main() -> None:
    console.run(app, name="weightflow")


if __name__ == "__main__":
    main()
