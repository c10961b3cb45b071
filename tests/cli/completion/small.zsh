#compdef nnenv
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

_nnenv_form() {
    local -a commands
    _arguments -s -S -C \
        '(-C)-C[the folder]:DIR:_files -/' \
        '1: :->command' \
        '*:: :->rest' && ret=0
    case $state in
    command)
        commands=(
            'make:make a thing: '\''it'\'', [or] two'
            'run:run a thing'
        )
        _describe -t commands command commands && ret=0
        ;;
    rest)
        case $words[1] in
        make) _nnenv_form_make ;;
        run) _nnenv_form_run ;;
        esac
        ;;
    esac
}

_nnenv_form_make() {
    local -a commands
    _arguments -s -S -C \
        '*'{-t,--target=}'[this target]:NAME:_nnenv_targets' \
        '*-o[where to]:OUT: _nnenv_open docker oci\:' \
        '(--quick)--quick[don'\''t wait]' \
        '*:NAME:_nnenv_packages' && ret=0
}

_nnenv_form_run() {
    local -a commands
    _arguments -s -S -C \
        '*-e[]:KEY: ' \
        '(-)1:command:_files' \
        '*:: :_files' && ret=0
}

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
