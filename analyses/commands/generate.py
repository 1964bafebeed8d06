"""The command ``peaklens generate``: its options, and the call they make."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from analyses.commands.common import complain, first_line, load_chosen, tell_engine, tell_prompt
from analyses.commands.options import (
    Device,
    DeviceMap,
    Dtype,
    MaxNewTokens,
    Model,
    Prompt,
    PromptMode,
    Seed,
    Temperature,
    TopP,
)  # fmt: skip

__all__ = ["generate"]


def generate(
    question: Annotated[str, typer.Argument(help="What to ask; for the toy e.g. '6 A * 3 B - 8 ? ->'.")],
    model: Model = "toy-reasoner",
    suppress: Annotated[str | None, typer.Option(help='"thinking", or words separated by commas.')] = None,
    recycle: Annotated[
        str | None, typer.Option(help="layer=2[,p=1][,repeats=1][,trigger=predicted|input][,words=Wait+Hmm]")
    ] = None,
    recurse: Annotated[str | None, typer.Option(help="top=2[,iterations=4][,entropy=1.0][,tolerance=0.001]")] = None,
    continue_with: Annotated[
        str | None,
        typer.Option("--continue", help="token=Wait,budget=200[,at=end|start][,final=...][,final_tokens=16]"),
    ] = None,
    force_budget: Annotated[
        str | None, typer.Option(help="end=</think>[,ignore=1][,append=Wait][,max=200]; end may be a token id.")
    ] = None,
    max_new_tokens: MaxNewTokens = 256,
    prompt: Prompt = PromptMode.auto,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    generation_config: Annotated[
        bool, typer.Option(help="Penalties, bans and stop strings of the model's generation_config, or none of them.")
    ] = True,
    device: Device = None,
    dtype: Dtype = None,
    device_map: DeviceMap = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The response as JSON on standard output.")] = False,
) -> None:
    """One response, with marks where interventions acted.

    Interventions act in the order suppress, recycle, recurse, continue, force-budget.
    """
    from analyses.commands.show_response import (
        build_interventions,
        named_layers,
        named_words,
        response_facts,
        show_response,
    )
    from analyses.thinking import word_uses
    from analyses.trace.prompting import prompt_for
    from analyses.trace.settings import check_sampling
    from interp.decoding import decode
    from interp.errors import InputError
    from interp.loading.layers import check_layers

    check_sampling("generate", max_new_tokens, temperature, top_p, seed)
    for operation, layers in named_layers(recycle, recurse).items():
        check_layers(model, layers, operation)
    loaded = load_chosen(model, device, dtype, device_map, silent=quiet or as_json)
    taken = prompt_for(loaded.tokenizer) if prompt == PromptMode.auto else str(prompt)
    if not (quiet or as_json):
        tell_prompt(loaded, prompt)
        tell_engine(loaded)
    interventions = build_interventions(loaded, suppress, recycle, recurse, continue_with, force_budget)
    try:
        rollout = decode(
            loaded,
            [question if taken == "raw" else [{"role": "user", "content": question}]],
            max_new_tokens=max_new_tokens,
            interventions=interventions,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            generation_config=generation_config,
            progress=not (quiet or as_json),
        )[0]
    except InputError:
        raise
    except Exception as error:  # what a trace records as the reason of a failed response
        raise typer.Exit(complain(f"the response failed: {type(error).__name__}: {first_line(error)}", 1)) from error
    words = word_uses(named_words(loaded, suppress, recycle), rollout.token_ids.tolist())
    if as_json:
        facts = {"prompt": taken, **response_facts(rollout), "words": {use.word: use.count for use in words}}
        typer.echo(json.dumps(facts))
    else:
        show_response(rollout, words)
