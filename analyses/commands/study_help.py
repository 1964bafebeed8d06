"""``peaklens study NAME --help``: below the options that all studies have, those of that study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand

__all__ = ["StudyCommand"]

_ASKED = "analyses.commands.study_help"


class StudyCommand(TyperCommand):
    """The command ``study``, whose help depends on the study that is named, before ``--help`` or after it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # --help ends the parsing before other arguments have their values.
        asked, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta[_ASKED] = asked.get("name")
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        name = ctx.meta.get(_ASKED)
        if not isinstance(name, str) or not name:
            formatter.write_paragraph()
            formatter.write_text(
                "`peaklens study NAME --help` lists a study's own options, `peaklens study` the studies."
            )
            return
        from analyses.studies import find_study
        from analyses.studies.options import OptionHelp, options_of

        study = find_study(name)
        formatter.write_paragraph()
        formatter.write_text(f"{study.name}: {study.title} ({study.source}).")
        options: Sequence[OptionHelp] = options_of(study)
        if not options:
            formatter.write_text("It has no options of its own.")
            return
        with formatter.section(f"Options of {study.name}, as --set NAME=VALUE; several values are separated by commas"):
            formatter.write_dl([(option.name, str(option)) for option in options])
