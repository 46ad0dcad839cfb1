#!/usr/bin/env python3
"""Makes the pages of section 3 from the comments of fdspan.h. usage: api.py fdspan.h DIRECTORY

Fails when a function has no comment, or one without "Threads:", "Since:" and, where it can fail, "Errors:"."""
import os
import re
import sys

STANDARD = {
    "ECHILD": "The handle belongs to the parent of this process: it was made before fork(2).",
    "EBUSY": "Called from inside a callback of this tracker.",
    "ENOMEM": "There is not enough memory.",
    "EMFILE": "This process has no descriptor left.",
    "ENFILE": "This machine has no open file description left.",
    "EPERM": "The privileges are missing.",
    "EACCES": "The privileges are missing.",
    "ENOSPC": "There is no room left.",
}
SECTIONS = {"Ownership": "OWNERSHIP", "Threads": "THREADS", "Returns": "RETURN VALUE", "Errors": "ERRORS", "Since": "HISTORY", "Needs": "PRIVILEGES"}


def fail(message):
    sys.exit(f"api.py: {message}")


def clean(comment):
    """The comment's paragraphs, each on one line."""
    lines = [re.sub(r"^\s*\*? ?", "", line) for line in comment.strip().splitlines()]
    paragraphs, current = [], []
    for line in lines + [""]:
        starts = re.match(r"(%s)[: ]" % "|".join(SECTIONS), line)
        if (not line.strip() or starts) and current:
            paragraphs.append(" ".join(current))
            current = []
        if line.strip():
            current.append(line.strip())
    return paragraphs


def roff(text):
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"\b(fdspan_[a-z_]+|[a-z_]+)\((\d?)\)", lambda m: "\\fB%s\\fR(%s)" % (m[1], m[2] or "3" if m[1].startswith("fdspan_") else m[2]), text)
    text = re.sub(r"\b(FDSPAN_[A-Z_]+|CAP_[A-Z_]+|UINT64_MAX|NULL|POLLIN|CLOCK_[A-Z]+)\b", r"\\fB\1\\fR", text)
    return "\n".join("\\&" + line if line[:1] in ".'" else line for line in text.splitlines())


def errors(text):
    """(errnos, what it means) and what stands outside of that."""
    found, rest = [], []
    group = re.compile(r"-E[A-Z0-9]+(?:, -E[A-Z0-9]+)*")
    position, matches = 0, list(group.finditer(text))
    if matches and matches[0].start() > 0:
        rest.append(text[: matches[0].start()].strip(" ;"))
    if not matches:
        return [], text
    for match, following in zip(matches, matches[1:] + [None]):
        until = following.start() if following else len(text)
        after = text[match.end() : until]
        names = [name[1:] for name in match[0].split(", ")]
        if after.startswith((":", " for ")):
            meaning = after[1:].strip().rstrip(";,. ")
            if ". Others: " in meaning:
                meaning, others = meaning.split(". Others: ", 1)
                rest.append("Others: " + others)
            found.append((names, meaning[:1].upper() + meaning[1:] + "."))
            continue
        for name in names:
            if name not in STANDARD:
                fail(f"nothing says what {name} means")
            found.append(([name], STANDARD[name]))
        extra = after.strip(" .,;")
        if extra:
            rest.append(extra[:1].upper() + extra[1:] + ".")
    return found, " ".join(rest)


def page(name, declaration, paragraphs, structs, version, siblings):
    sections, body = {}, []
    for paragraph in paragraphs:
        match = re.match(r"(%s)(:| for| what)" % "|".join(SECTIONS), paragraph)
        if match:
            text = paragraph if match[1] == "Needs" else paragraph[match.end() :].strip()
            sections[match[1]] = text
        else:
            body.append(paragraph)
    if not body or "Threads" not in sections or "Since" not in sections:
        fail(f"{name}: needs a description, Threads and Since")
    if declaration.startswith("int ") and "Errors" not in sections:
        fail(f"{name}: needs Errors")
    summary = re.split(r"[.:;](?: |$)", body[0])[0]
    summary = summary[:1].lower() + summary[1:]
    out = [f'.TH {name.upper()} 3 "" "fdspan {version}" "fdspan"', ".SH NAME", f"{name} \\- {roff(summary)}", ".SH SYNOPSIS", ".nf",
           ".B #include <fdspan/fdspan.h>", ".PP", f".B {roff_code(declaration)}", ".fi", ".PP", "Link with \\fI\\-lfdspan\\fR."]
    out += [".SH DESCRIPTION"]
    for i, paragraph in enumerate(body):
        out += ([".PP"] if i else []) + [roff(paragraph)]
    for struct, (comment, text) in structs.items():
        if re.search(r"\bstruct %s \*" % struct, declaration) and text:
            out += [f".SS struct {struct}", *[roff(line) for line in comment], ".PP", ".in +2n", ".nf", roff_code(text), ".fi", ".in"]
    for key, title in SECTIONS.items():
        if key == "Errors" and key in sections:
            items, rest = errors(sections[key])
            out += [f".SH {title}"]
            for names, meaning in items:
                out += [".TP", ", ".join("\\fB\\-%s\\fR" % n for n in names), roff(meaning)]
            if rest:
                out += [".PP", roff(rest[:1].upper() + rest[1:])]
        elif key in sections:
            text = "Since fdspan %s." % sections[key] if key == "Since" else sections[key]
            text = "Returns " + text if key == "Returns" else text
            out += [f".SH {title}", roff(text[:1].upper() + text[1:])]
    others = [s for s in siblings if s != name]
    out += [".SH SEE ALSO"] + [f".BR {s} (3)," for s in others] + [".BR fdspan (7)"]
    return "\n".join(line for block in out for line in block.splitlines() if line.strip()) + "\n"


def roff_code(text):
    return "\n".join(("\\&" + line if line[:1] in ".'" else line) for line in text.replace("\\", "\\e").replace("-", "\\-").replace("\t", "    ").splitlines())


def main():
    if len(sys.argv) != 3:
        fail("usage: api.py fdspan.h DIRECTORY")
    with open(sys.argv[1], encoding="utf-8") as file:
        header = file.read()
    version = ".".join(re.search(r"FDSPAN_VERSION_%s (\d+)" % part, header)[1] for part in ("MAJOR", "MINOR", "PATCH"))
    found = re.finditer(r"/\*((?:(?!\*/).)*)\*/\n(struct (fdspan_\w+) \{.*?\n\};)", header, re.S)
    structs = {match[3]: (clean(match[1]), match[2]) for match in found}
    groups, current = [], []
    functions = []
    for match in re.finditer(r"/\* ---- |/\*\n((?:(?!\*/).)*)\*/\nFDSPAN_API (?:FDSPAN_MUST_CHECK )?([^;]*;)|^FDSPAN_API [^;]*;", header, re.S | re.M):
        if match[0].startswith("/* ---- "):
            current = []
            groups.append(current)
            continue
        if match[2] is None:
            fail("no comment: " + match[0])
        name = re.search(r"(fdspan_\w+)\(", match[2])[1]
        current.append(name)
        functions.append((name, match[2], clean(match[1]), current))
    if not functions:
        fail("no functions found")
    os.makedirs(sys.argv[2], exist_ok=True)
    for name, declaration, paragraphs, siblings in functions:
        with open(os.path.join(sys.argv[2], name + ".3"), "w", encoding="utf-8") as file:
            file.write(page(name, declaration, paragraphs, structs, version, siblings))


main()
