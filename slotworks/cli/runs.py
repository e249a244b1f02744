"""What the command line takes for a run folder."""

from pathlib import Path


def run_of(run: Path) -> Path:
    """A run folder as it is; one made of `hf://OWNER/NAME[@REVISION]`, of `zoo:NAME`, or of a folder that `slotworks
    publish` wrote.

    Raises:
        UserError: as `slotworks.hub.local_run`.
    """
    published = (run / "config.json").is_file() and not (run / "run.yaml").exists()
    if not published and not str(run).startswith(("hf:", "zoo:")):
        return run
    from slotworks.hub import local_run

    return local_run(run)
