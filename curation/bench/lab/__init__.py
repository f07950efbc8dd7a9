"""`notewright bench lab`: which lessons the lab's students learn more from, and what that depends on.

The students of `curation.lab.models` differ in one thing, the wordings in which they read each biography. Here they
stand as declared, and with one thing changed at a time. In every cell students learn 96 people whom no setting was
chosen on, from the world's own rewrites and not a teacher's, and are asked their held-out questions.

The analysis was fixed before the first run. A cell's figure is the gain by `permuted` lessons minus the gain by
`question-answer` lessons, paired by person. Its 95% interval draws the batches of people that share students and,
where there are several, the students' initial weights. P-values are corrected by Holm over all cells, and a verdict for
either lesson needs an adjusted one below 0.05.
"""
