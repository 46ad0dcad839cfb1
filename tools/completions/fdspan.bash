# bash completion for fdspan(1). Columns come from the program itself, so that they are never out of date.
_fdspan() {
    local current previous command=
    current=${COMP_WORDS[COMP_CWORD]}
    previous=${COMP_WORDS[COMP_CWORD - 1]}
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W 'ls watch deleted recover log check arm disarm doctor --help --version' -- "$current")
        return
    fi
    command=${COMP_WORDS[1]}
    # bash splits at "=": --color = auto
    if [ "$previous" = '=' ]; then
        previous=${COMP_WORDS[COMP_CWORD - 2]}
    elif [ "$current" = '=' ]; then
        current=
    fi
    local words=
    case $previous in
    -o | --output | --sort)
        [ "$command" = ls ] || return
        words=$("${COMP_WORDS[0]}" ls --list-columns 2>/dev/null | cut -d' ' -f1)
        # After a comma, or a leading "+", the next name is completed.
        local done=
        case $current in
        *,*) done=${current%,*}, ;;
        +*) done=+ ;;
        esac
        mapfile -t COMPREPLY < <(compgen -P "$done" -W "$words" -- "${current#"$done"}")
        compopt -o nospace
        return
        ;;
    --backend)
        words='auto trampoline kprobe syscall'
        [ "$command" = arm ] || words+=' procfs'
        ;;
    --by) words='process container filesystem' ;;
    --color) words='auto always never' ;;
    --ref) words='fd mem exe cwd root' ;;
    --type) words='REG DIR CHR BLK FIFO SOCK LNK ANON eventfd eventpoll inotify io_uring pidfd signalfd timerfd' ;;
    --event) words='opened closed released deleted unlinked exec exit lost resynced' ;;
    -p | --pid) words=$(cd /proc && printf '%s\n' [0-9]*) ;;
    -u | --user)
        mapfile -t COMPREPLY < <(compgen -u -- "$current")
        return
        ;;
    --database | --socket)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
        ;;
    --warn-* | --crit-* | --since | --until | --path | --min-duration | --min-bytes | --older-than | --newer-than | --interval | --timeout | --limit | --count | --ring-bytes | --max-entries | \
        -c | --comm | -d | --fd | --inode | --tid) return ;;
    esac
    if [ -z "$words" ] && [[ $current == -* ]]; then
        case $command in
        ls) words='--pid --comm --user --fd --older-than --newer-than --deleted --type --ref --all --output --list-columns --sort
            --reverse --limit --json --noheadings --human --socket --no-daemon --backend --color --help' ;;
        watch) words='--pid --event --older-than --interval --count --timeout --ring-bytes --max-entries --verify --json --backend --color --help' ;;
        deleted) words='--pid --comm --user --older-than --min-bytes --limit --by --nameless --gone --libraries --explain --json
            --noheadings --human --socket --no-daemon --backend --color --help' ;;
        recover) words='--inode --tid --force --link --explain --json --backend --help' ;;
        log) words='--since --until --path --pid --deleted --min-duration --min-bytes --limit --follow --json --csv --database --color --help' ;;
        check) words='--warn-bytes --crit-bytes --warn-age --crit-age --warn-fds --crit-fds --warn-leaks --crit-leaks --socket --help' ;;
        arm) words='--backend --max-entries --json --help' ;;
        disarm) words='--json --help' ;;
        doctor) words='--json --color --help' ;;
        esac
    fi
    if [ -n "$words" ]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
    elif [ "$command" = recover ] && [ "$COMP_CWORD" -eq 2 ]; then
        mapfile -t COMPREPLY < <(compgen -W "$(cd /proc && printf '%s\n' [0-9]*)" -- "$current")
    elif [ "$command" = recover ] && [ "$COMP_CWORD" -eq 3 ] && [[ ${COMP_WORDS[2]} != -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "exe $(ls "/proc/${COMP_WORDS[2]}/fd" 2>/dev/null)" -- "$current")
    elif [[ $command == @(ls|watch|deleted|recover) ]]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
    fi
}
complete -F _fdspan fdspan
