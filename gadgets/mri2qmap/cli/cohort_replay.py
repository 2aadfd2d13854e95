"""`mri2qmap replay` with several scans, or with the workers of a Dask scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mri2qmap.cli.console import say

if TYPE_CHECKING:
    import argparse

    from mri2qmap.cohort.outcome import ScanOutcome


def run_cohort(
    args: argparse.Namespace, pipeline: str, overrides: dict[str, dict[str, str]]
) -> int:
    """Reconstruct the scans; write a line for each that ends, and the table.

    Parameters
    ----------
    args
        Arguments of `mri2qmap replay`.
    pipeline, overrides
        Pipeline and changed settings, as parsed.

    Returns
    -------
        The exit code, which tells whether all are done.

    Raises
    ------
    Mri2QmapError
        As `mri2qmap.cohort.reconstruction.reconstruct_cohort`, and for options of a server.
    """
    from mri2qmap.cli.main import FAILED
    from mri2qmap.cli.serving import memory_of
    from mri2qmap.cohort.outcome import TABLE, summary
    from mri2qmap.cohort.reconstruction import PATIENCE, reconstruct_cohort
    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.pipeline.progress import TerminalReporter

    if args.patience is not None and args.scheduler is None:
        raise Mri2QmapError("--patience needs --scheduler ADDRESS")
    if args.resume:
        raise Mri2QmapError(
            "--resume is for one scan; of several scans, the same command makes those that are not "
            "done"
        )

    def ended(outcome: ScanOutcome) -> None:
        say(_line(outcome))

    outcomes = reconstruct_cohort(
        args.scans,
        args.output,
        pipeline,
        args.device,
        settings=overrides,
        progress=TerminalReporter(args.verbose),  # each scan has its own line
        group=args.group,
        memory=memory_of(args.memory),
        scheduler=args.scheduler,
        workers=args.workers,
        threads=args.threads,
        patience=PATIENCE if args.patience is None else args.patience,
        overwrite=args.overwrite,
        report=args.with_report,
        pdf=args.pdf,
        command=args.command,
        on_end=ended,
        scan_profile=args.scan_profile,
    )
    failed = sum(outcome.state == "failed" for outcome in outcomes)
    say(f"\n{summary(outcomes)}\n")
    done = len(outcomes) - failed
    say(f"{args.output / TABLE}: {done} of {len(outcomes)} scans are done, {failed} failed")
    return FAILED if failed else 0


def _line(outcome: ScanOutcome) -> str:
    where = f" on {outcome.worker}" if outcome.worker else ""
    if outcome.state == "failed":
        return f"{outcome.scan}: failed{where}: {outcome.reason}"
    if outcome.state == "skipped":
        return f"{outcome.scan}: skipped, it is done already"
    time = "" if outcome.seconds is None else f" in {outcome.seconds:.1f} s"
    return f"{outcome.scan}: done{time}{where}"
