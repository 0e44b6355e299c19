"""Learn it by writing it: the parts of a convolutional network as exercises, each derived, written and graded.

    python -m minicnn.learn list                    the exercises, and which of yours are right
    python -m minicnn.learn start dense_backward    writes dense_backward.py: the task, the signature, and no body
    python -m minicnn.learn check dense_backward    grades it, and says how an answer is wrong
    python -m minicnn.learn hint dense_backward     one of three hints; a number behind it asks for another
    python -m minicnn.learn train                   trains a network with all that is right, beside the library's

Every exercise is graded alone, everything else coming from the library; so they can be done in any order. To read it:
exercises.py (what is asked), cases.py (on what it is run), sources.py (what a student's file begins with), grading.py
and diagnosis.py (what is wrong, and how), sandbox.py (where it runs), practice.py (the network) and commands.py.
museum/ holds mistakes that were really made, and the tests that catch them. Nothing in the library needs this package.
"""
