"""Types a password twice into a program on a terminal of its own: type_password.py PASSWORD|--differ PROGRAM ARGUMENTS...

Prints what the terminal showed; exits as the program did. Standard library only.
"""
import os
import pty
import sys
import termios
import time

first, program = sys.argv[1], sys.argv[2:]
answers = ["correct horse battery", "another horse battery"] if first == "--differ" else [first, first]
pid, terminal = pty.fork()
if pid == 0:
    os.execv(program[0], program)


def echoes():
    return termios.tcgetattr(terminal)[3] & termios.ECHO


shown, asked = b"", 0
while True:
    try:
        piece = os.read(terminal, 4096)
    except OSError:
        break
    if not piece:
        break
    shown += piece
    while asked < len(answers) and shown.count(b": ") > asked:
        # Nobody types faster than the program turns the echo off; one that never does shows what was typed.
        for _ in range(200):
            if not echoes():
                break
            time.sleep(0.01)
        os.write(terminal, answers[asked].encode() + b"\n")
        asked += 1
print(shown.decode(errors="replace"))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
