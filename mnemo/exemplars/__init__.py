"""Exemplars whose pixels are optimised before they are stored.

:mod:`stages <mnemo.exemplars.stages>` has what happens in a phase, :mod:`pixels <mnemo.exemplars.pixels>` the loop that
moves them. Which way they move is an objective, one paper a file: :mod:`mnemonics <mnemo.exemplars.mnemonics>`,
:mod:`gradient_matching <mnemo.exemplars.gradient_matching>`, :mod:`distribution_matching
<mnemo.exemplars.distribution_matching>`, :mod:`nearest_mean <mnemo.exemplars.nearest_mean>`. :mod:`starts
<mnemo.exemplars.starts>` has the networks that an objective looks through, and :mod:`rehearsal
<mnemo.exemplars.rehearsal>` plays the strategy's next phase on classes made up for it.
"""
