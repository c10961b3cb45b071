"""Completion scripts for three shells, each a pure function of the command line's forms.

Options and words stand in the script; names of the project are asked of `nnenv completion --names`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from nnenv.cli.grammar import Form, Kind, Option, Value

# bash

_BASH: Final = r"""# Completion of nnenv for bash 4.2 and later, printed by `nnenv completion bash`.
# Load it with: source <(nnenv completion bash)
# shellcheck shell=bash

# What follows an option: its kind, then words.
_nnenv_value() {
    case "$1:$2" in
@values@
    *) ;;
    esac
}

# The options of a command.
_nnenv_options() {
    case "$1" in
@options@
    esac
}

# What can stand behind a command: its kind, then words.
_nnenv_positional() {
    case "$1" in
@positionals@
    *) ;;
    esac
}

# The commands below a command.
_nnenv_inner() {
    case "$1" in
@inner@
    *) ;;
    esac
}

# Fill COMPREPLY from a kind, its words and what is typed so far.
_nnenv_reply() {
    local kind=$1 words=$2 current=$3
    case "$kind" in
    words)
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
        [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *: ]] && compopt -o nospace
        ;;
    folder)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -d -- "$current")
        ;;
    file)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        ;;
    targets | packages | requirements | models)
        words=$("${COMP_WORDS[0]}" "${_nnenv_project[@]}" completion --names "$kind" 2>/dev/null)
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
        ;;
    *) ;;
    esac
    return 0
}

_nnenv() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local path="" word kind words inner index=1 foreign=0
    local -a _nnenv_project=()
    COMPREPLY=()
    while ((index < COMP_CWORD)); do
        word=${COMP_WORDS[index]}
        if [[ $word == -- ]]; then
            foreign=1
            break
        elif [[ $word == -* ]]; then
            read -r kind words < <(_nnenv_value "$path" "$word")
            if [[ -n $kind ]]; then
                # bash makes words of its own of `=` and `:`
                [[ ${COMP_WORDS[index + 1]} == "=" ]] && ((index++))
                ((index++))
                [[ $word == -C && $index -lt $COMP_CWORD ]] && _nnenv_project=(-C "${COMP_WORDS[index]}")
            fi
        else
            inner=" $(_nnenv_inner "$path") "
            if [[ $inner == *" $word "* ]]; then
                path=${path:+$path }$word
            elif [[ $(_nnenv_positional "$path") == command ]]; then
                foreign=1
                break
            fi
        fi
        ((index++))
    done
    if ((foreign)); then
        _nnenv_reply file "" "$current"
        return
    fi
    if [[ $previous == ":" || $current == ":" ]]; then
        [[ $current == ":" ]] && current=""
        _nnenv_reply file "" "$current"
        return
    fi
    if [[ $current == "=" ]]; then
        current=""
    elif [[ $previous == "=" ]]; then
        previous=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    if [[ $previous == -* ]]; then
        read -r kind words < <(_nnenv_value "$path" "$previous")
        if [[ -n $kind ]]; then
            _nnenv_reply "$kind" "$words" "$current"
            return
        fi
    fi
    if [[ $current == -* ]]; then
        _nnenv_reply words "$(_nnenv_options "$path")" "$current"
        return
    fi
    words=$(_nnenv_inner "$path")
    if [[ -n $words ]]; then
        _nnenv_reply words "$words" "$current"
        return
    fi
    read -r kind words < <(_nnenv_positional "$path")
    _nnenv_reply "${kind/command/file}" "$words" "$current"
}

complete -F _nnenv nnenv
"""


def bash_script(forms: Sequence[Form]) -> str:
    """For bash 4.2 and later."""
    values, options, positionals, inner = [], [], [], []
    for form in forms:
        path = " ".join(form.path)
        options.append(f'    "{path}") echo "{" ".join(_spellings(form.options))}" ;;')
        for option in form.options:
            if option.value is not None:
                patterns = " | ".join(f'"{path}:{spelling}"' for spelling in option.spellings)
                values.append(f'    {patterns}) echo "{_bash_value(option.value)}" ;;')
        if form.inner:
            inner.append(f'    "{path}") echo "{" ".join(name for name, _ in form.inner)}" ;;')
        if form.positional is not None:
            what = "command" if form.takes_command else _bash_value(form.positional)
            positionals.append(f'    "{path}") echo "{what}" ;;')
    parts = {"values": values, "options": options, "positionals": positionals, "inner": inner}
    return _filled(_BASH, {name: "\n".join(lines) for name, lines in parts.items()})


def _bash_value(value: Value) -> str:
    return " ".join((value.kind, *value.words))


# zsh

_ZSH: Final = r"""#compdef nnenv
# Completion of nnenv for zsh, printed by `nnenv completion zsh`.
# Save it as _nnenv in a folder of $fpath, or load it with: source <(nnenv completion zsh)

# Names of the project; the folder that -C names on the line is asked.
_nnenv_names() {
    local -a project names
    local at=${_nnenv_line[(I)-C]}
    (( at && at < $#_nnenv_line )) && project=(-C "${(Q)_nnenv_line[at + 1]}")
    names=(${(f)"$(_call_program names ${(q)_nnenv_line[1]} ${(q)project} completion --names $1 2>/dev/null)"})
    compadd -a names
}
_nnenv_targets() { _nnenv_names targets }
_nnenv_packages() { _nnenv_names packages }
_nnenv_requirements() { _nnenv_names requirements }
_nnenv_models() { _nnenv_names models }

# Words of which those with a colon go on with a file.
_nnenv_open() {
    if compset -P '*:'; then
        _files
    else
        local -a whole=(${@:#*:}) begun=(${(M)@:#*:})
        compadd -a whole
        compadd -S '' -a begun
    fi
}

@functions@
_nnenv() {
    local curcontext=$curcontext state line ret=1
    typeset -A opt_args
    local -a _nnenv_line=($words)
    _nnenv_form
    return ret
}

if [[ $funcstack[1] == _nnenv ]]; then
    _nnenv "$@"
else
    compdef _nnenv nnenv
fi
"""


def zsh_script(forms: Sequence[Form]) -> str:
    """For zsh 5, as a file of $fpath or to be sourced."""
    return _filled(_ZSH, {"functions": "\n".join(_zsh_function(form) for form in forms)})


def _zsh_function(form: Form) -> str:
    specs = [_zsh_option(option) for option in form.options]
    lines = [f"{_zsh_name(form.path)}() {{", "    local -a commands", "    _arguments -s -S -C \\"]
    if form.inner:
        specs += ["'1: :->command'", "'*:: :->rest'"]
    elif form.takes_command:
        specs += ["'(-)1:command:_files'", "'*:: :_files'"]
    elif form.positional is not None:
        specs.append(f"'*:{_zsh_text(form.positional.label)}:{_zsh_action(form.positional)}'")
    lines.append(" \\\n".join(f"        {spec}" for spec in specs) + " && ret=0")
    if form.inner:
        lines += ["    case $state in", "    command)", "        commands=("]
        lines += [f"            {_quoted(name + ':' + help)}" for name, help in form.inner]
        lines += ["        )", "        _describe -t commands command commands && ret=0", "        ;;", "    rest)"]
        lines += ["        case $words[1] in"]
        lines += [f"        {name}) {_zsh_name((*form.path, name))} ;;" for name, _ in form.inner]
        lines += ["        esac", "        ;;", "    esac"]
    return "\n".join([*lines, "}", ""])


def _zsh_name(path: Sequence[str]) -> str:
    return "_".join(("_nnenv_form", *path))


def _zsh_option(option: Option) -> str:
    """One specification of `_arguments`: zshcompsys(1)."""
    help = f"[{_zsh_text(option.help)}]"
    value = "" if option.value is None else f":{_zsh_text(option.value.label)}:{_zsh_action(option.value)}"
    excluded = "*" if option.repeatable else f"({' '.join(option.spellings)})"
    # `--color=always` is taken as `--color always` is
    spellings = [f"{name}=" if value and name.startswith("--") else name for name in option.spellings]
    if len(spellings) == 1:
        return _quoted(f"{excluded}{spellings[0]}{help}{value}")
    return f"{_quoted(excluded)}{{{','.join(spellings)}}}{_quoted(help + value)}"


def _zsh_action(value: Value) -> str:
    match value.kind:
        case Kind.WORDS:
            if any(word.endswith(":") for word in value.words):
                return f" _nnenv_open {' '.join(map(_zsh_text, value.words))}"
            return f"({' '.join(value.words)})"
        case Kind.FOLDER:
            return "_files -/"
        case Kind.FILE:
            return "_files"
        case Kind.NOTHING:
            return " "
        case _:
            return f"_nnenv_{value.kind}"


def _zsh_text(text: str) -> str:
    for character in "\\:[]":
        text = text.replace(character, "\\" + character)
    return text


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# fish

_FISH: Final = r"""# Completion of nnenv for fish, printed by `nnenv completion fish`.
# Save it as ~/.config/fish/completions/nnenv.fish, or load it with: nnenv completion fish | source

# The command on the line so far, such as "test record"; "foreign" once the words belong to another program.
function __nnenv_path
    set -l path
    set -l skip 0
    for word in (commandline -opc)[2..-1]
        if test $skip -eq 1
            set skip 0
        else if test "$word" = --
            echo foreign
            return
        else if contains -- "$path:$word" @valued@
            set skip 1
        else if string match -q -- '-*' $word
            continue
        else if contains -- (string trim -- "$path $word") @paths@
            set path (string trim -- "$path $word")
        else if contains -- "$path" @takers@
            echo foreign
            return
        end
    end
    echo $path
end

function __nnenv_is
    set -l path (__nnenv_path)
    test "$path" = "$argv"
end

# Names of the project; the folder that -C names on the line is asked.
function __nnenv_names
    set -l words (commandline -opc)
    set -l project
    set -l at (contains -i -- -C $words)
    and set project -C $words[(math $at + 1)]
    command $words[1] $project completion --names $argv[1] 2>/dev/null
end

complete -c nnenv -f
complete -c nnenv -n '__nnenv_is foreign' -F
@rules@
"""


def fish_script(forms: Sequence[Form]) -> str:
    """For fish 3."""
    rules = [line for form in forms for line in _fish_rules(form)]
    valued = [
        _fish_quoted(f"{' '.join(form.path)}:{spelling}")
        for form in forms
        for option in form.options
        if option.value is not None
        for spelling in option.spellings
    ]
    parts = {
        "rules": "\n".join(rules),
        "valued": " ".join(valued),
        "paths": " ".join(_fish_quoted(" ".join(form.path)) for form in forms if form.path),
        "takers": " ".join(_fish_quoted(" ".join(form.path)) for form in forms if form.takes_command),
    }
    return _filled(_FISH, parts)


def _fish_rules(form: Form) -> Iterable[str]:
    when = "complete -c nnenv -n " + _fish_quoted(" ".join(("__nnenv_is", *form.path)))
    for name, help in form.inner:
        yield f"{when} -a {name} -d {_fish_quoted(help)}"
    for option in form.options:
        names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.spellings)
        value = "" if option.value is None else f" {_fish_value(option.value, required=True)}"
        yield f"{when} {names}{value} -d {_fish_quoted(option.help)}"
    if form.takes_command:
        yield f"{when} -F"
    elif form.positional is not None and form.positional.kind is not Kind.NOTHING:
        yield f"{when} {_fish_value(form.positional, required=False)}"


def _fish_value(value: Value, *, required: bool) -> str:
    exclusive = "-x " if required else ""
    match value.kind:
        case Kind.WORDS:
            return f"{exclusive}-a {_fish_quoted(' '.join(value.words))}"
        case Kind.FOLDER:
            return f"{exclusive}-a '(__fish_complete_directories)'"
        case Kind.FILE:
            return "-r -F" if required else "-F"
        case Kind.NOTHING:
            return "-x"
        case _:
            return f"{exclusive}-a '(__nnenv_names {value.kind})'"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


# All


def _spellings(options: Sequence[Option]) -> list[str]:
    return [spelling for option in options for spelling in option.spellings]


def _filled(template: str, parts: Mapping[str, str]) -> str:
    for name, text in parts.items():
        template = template.replace(f"@{name}@", text)
    return template


SCRIPTS: Final[Mapping[str, Callable[[Sequence[Form]], str]]] = {
    "bash": bash_script,
    "zsh": zsh_script,
    "fish": fish_script,
}
"""Shell -> what makes its script."""
