# Completion of nnenv for fish, printed by `nnenv completion fish`.
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
        else if contains -- "$path:$word" ':-C' 'make:-t' 'make:--target' 'make:-o' 'run:-e'
            set skip 1
        else if string match -q -- '-*' $word
            continue
        else if contains -- (string trim -- "$path $word") 'make' 'run'
            set path (string trim -- "$path $word")
        else if contains -- "$path" 'run'
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
complete -c nnenv -n '__nnenv_is' -a make -d 'make a thing: \'it\', [or] two'
complete -c nnenv -n '__nnenv_is' -a run -d 'run a thing'
complete -c nnenv -n '__nnenv_is' -s C -x -a '(__fish_complete_directories)' -d 'the folder'
complete -c nnenv -n '__nnenv_is make' -s t -l target -x -a '(__nnenv_names targets)' -d 'this target'
complete -c nnenv -n '__nnenv_is make' -s o -x -a 'docker oci:' -d 'where to'
complete -c nnenv -n '__nnenv_is make' -l quick -d 'don\'t wait'
complete -c nnenv -n '__nnenv_is make' -a '(__nnenv_names packages)'
complete -c nnenv -n '__nnenv_is run' -s e -x -d ''
complete -c nnenv -n '__nnenv_is run' -F
