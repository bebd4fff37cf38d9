"""Learning to learn from few images: tasks of a few classes, and what is meta-learned for solving them.

A data set's classes are split three ways. On those for training a backbone is pre-trained (``pretraining``) and a
method is meta-trained (``meta_training``); the checkpoint is chosen on tasks of the validation classes, and evaluated
on tasks of the test classes (``evaluation``). A method is a network and a base-learner (``method``); its recipe is a
file in ``methods``.
"""
