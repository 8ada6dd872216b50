"""`apicas completion`: what makes a shell complete the words of `apicas`."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from apicas.cli.terminal import results
from apicas.exceptions import ConfigError

EPILOG = """\b
The shell asks `apicas` each time, so that new commands and options are known at once. A start of any other command
costs nothing for it.

\b
Examples:
  echo 'source <(apicas completion bash)' >> ~/.bashrc
  echo 'source <(apicas completion zsh)' >> ~/.zshrc      # below compinit
  apicas completion fish > ~/.config/fish/completions/apicas.fish
"""

_BASH: Final = """\
_apicas_completion() {
    local IFS=$'\\n'
    COMPREPLY=($(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" \\
        _APICAS_COMPLETE=complete_bash "$1" 2>/dev/null))
}
complete -o default -F _apicas_completion apicas
"""
_ZSH: Final = """\
_apicas_completion() {
    local -a found
    local -x COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT - 1)) _APICAS_COMPLETE=complete_bash
    found=("${(@f)$(apicas 2>/dev/null)}")
    if [[ -n "${found[1]}" ]]; then
        compadd -- "${found[@]}"
    else
        _files
    fi
}
compdef _apicas_completion apicas
"""
_FISH: Final = """\
function _apicas_completion
    set --local --export _TYPER_COMPLETE_ARGS (commandline --cut-at-cursor --current-process | string collect)
    set --local --export _TYPER_COMPLETE_FISH_ACTION get-args
    _APICAS_COMPLETE=complete_fish apicas 2>/dev/null
end
complete --command apicas --arguments "(_apicas_completion)"
"""
_SCRIPTS: Final = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def completion(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="The shell.")],
) -> None:
    """Print what makes a shell complete the words of `apicas`."""
    if shell not in _SCRIPTS:
        raise ConfigError(f"there is no completion for {shell!r}; there is one for {', '.join(_SCRIPTS)}")
    with results():
        typer.echo(_SCRIPTS[shell], nl=False)
