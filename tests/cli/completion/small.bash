# Completion of nnenv for bash 4.2 and later, printed by `nnenv completion bash`.
# Load it with: source <(nnenv completion bash)
# shellcheck shell=bash

# What follows an option: its kind, then words.
_nnenv_value() {
    case "$1:$2" in
    ":-C") echo "folder" ;;
    "make:-t" | "make:--target") echo "targets" ;;
    "make:-o") echo "words docker oci:" ;;
    "run:-e") echo "nothing" ;;
    *) ;;
    esac
}

# The options of a command.
_nnenv_options() {
    case "$1" in
    "") echo "-C" ;;
    "make") echo "-t --target -o --quick" ;;
    "run") echo "-e" ;;
    esac
}

# What can stand behind a command: its kind, then words.
_nnenv_positional() {
    case "$1" in
    "make") echo "packages" ;;
    "run") echo "command" ;;
    *) ;;
    esac
}

# The commands below a command.
_nnenv_inner() {
    case "$1" in
    "") echo "make run" ;;
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
