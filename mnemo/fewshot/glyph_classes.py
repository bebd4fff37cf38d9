"""Which characters the data set of glyphs holds.

Scripts are kept together, so that a character's cousins in the same script are never in another split. Left out are
characters that look like one that is there, in the same script or another: Α of Greek and А of Cyrillic beside A of
Latin, and most small letters that are capitals in small. They were found by eye, and by comparing drawings of equal
size in six typefaces.
"""

TRAIN = (
    "23456789"
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghkmnpqrtuyæßþøŋ&@#$%?§¶€£"
    "ɐɔɕɘəɞɣɤɧɮɰɲɶɷɸɹɾʁʅʉʊʌʍʎʔʕʖʚʞʤʥʧʨ"
    "ΓΔΞΣΦΨΩαβγδεζθιλμξπςστφω"
    "ЂЉЊЏДЖИЛЦЧШЩЪЫЬЭЮЯѢ"
)
"""Digits, Latin letters with those of the phonetic alphabet, Greek and Cyrillic letters, and a few signs."""

VALIDATION = "ԱԲԳԴԵԶԷԸԹԺԻԽԾԿՀՁՃՄՅՆՇՉՊՌՎՐՒՔՖբդեէըթիլխծկձճմնչջֆ"
"""Armenian letters."""

TEST = "აბგდეზთიკლმოჟრსტუფქღყცწჭჯჰჱჲჳჴჵჶჸჹჺ±÷∇∉√∠∫≈⊆⊕⊠↺↯⇒♪"
"""Georgian letters and mathematical signs."""
