"""What a person types and sees: the commands of ``peaklens`` and what they print.

No computation lives here: a command reads options, calls one function of a room below, and shows what came back.
"""
