"""`ppcls-lite completion SHELL`: a script with which the shell completes commands and options.

Commands come from the table in cli.py, options and their choices from each command's own help, so
there is nothing to keep up. Where no word is known the shell completes file names.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
from collections.abc import Sequence

from ppcls_lite.cli import COMMANDS, main

_BASH = """\
# Completion of ppcls-lite for bash
_ppcls_lite() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{commands}"
  else
    case "${{COMP_WORDS[1]}} $previous" in
{choices}
      *)
        case "${{COMP_WORDS[1]}}" in
{options}
        esac
        case "$current" in -*) ;; *) words="" ;; esac ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _ppcls_lite ppcls-lite
"""
_ZSH = """\
#compdef ppcls-lite
# Completion of ppcls-lite for zsh
_ppcls_lite() {{
  if (( CURRENT == 2 )); then
    local -a commands=(
{commands}
    )
    _describe command commands
    return
  fi
  case "$words[2] $words[CURRENT-1]" in
{choices}
  esac
  if [[ "$words[CURRENT]" == -* ]]; then
    case "$words[2]" in
{options}
    esac
    return
  fi
  _files
}}
compdef _ppcls_lite ppcls-lite
"""


def run(argv: Sequence[str]) -> int:
    """Print the script for a shell."""
    parser = argparse.ArgumentParser(
        prog="ppcls-lite completion",
        description="Print a script with which the shell completes commands, options and choices.",
        epilog="zsh: into a file _ppcls-lite in a folder of $fpath; bash: see the example.",
    )
    parser.add_argument("shell", choices=list(_SCRIPTS), help="whose script")
    print(script(parser.parse_args(argv).shell), end="")
    return 0


def script(shell: str) -> str:
    """The script for `bash` or `zsh`."""
    helps = {name: help_of(name) for name in COMMANDS}
    template, option, choice, entry = _SCRIPTS[shell]
    return template.format(
        commands=entry[0].join(
            entry[1].format(name=name, about=_quoted(command.about))
            for name, command in COMMANDS.items()
        ),
        options="\n".join(
            option.format(name=name, words=" ".join(options_of(text)))
            for name, text in helps.items()
        ),
        choices="\n".join(
            choice.format(name=name, option=flag, words=" ".join(words))
            for name, text in helps.items()
            for flag, words in {name: first_words_of(text), **choices_of(text)}.items()
            if words
        ),
    )


_SCRIPTS = {  # shell: the whole; a command's options; an option's choices; commands between
    "bash": (
        _BASH,
        '          {name}) words="{words}" ;;',
        '      "{name} {option}") words="{words}" ;;',
        (" ", "{name}"),
    ),
    "zsh": (
        _ZSH,
        "      {name}) compadd -- {words} ;;",
        '    "{name} {option}") compadd -- {words}; return ;;',
        ("\n", "      '{name}:{about}'"),
    ),
}


def help_of(*words: str) -> str:
    """What `ppcls-lite WORDS --help` prints."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return text.getvalue()


def options_of(text: str) -> list[str]:
    """The options that a help text lists."""
    heads = re.findall(r"^  (-.*?)(?:  .*)?$", text, re.M)  # what an option does is further right
    return list(dict.fromkeys(re.findall(r"(?<![\w-])--?[a-z][\w-]*", "\n".join(heads))))


def first_words_of(text: str) -> list[str]:
    """The first words that a help text lists, as `digits` of `prepare`."""
    choices = re.search(r"^  \{([\w,.-]+)\}", text, re.M)
    if choices:
        return choices[1].split(",")
    listed = re.search(r"^  COMMAND\n((?: {4}.*\n)+)", text, re.M)
    return re.findall(r"^ {4}(\w[\w-]*)", listed[1], re.M) if listed else []


def choices_of(text: str) -> dict[str, list[str]]:
    """The options of a help text that take one word of a few, and those words."""
    found = re.findall(r"^ +(-[^{\n]*)\{([\w,.-]+)\}", text, re.M)
    return {
        flag: words.split(",")
        for flags, words in found
        for flag in re.findall(r"--?[a-z][\w-]*", flags)
    }


def _quoted(about: str) -> str:
    """A description within zsh's single quotes, its colons no separators."""
    return about.replace("'", "'\\''").replace(":", "\\:")
