"""What a word and a sentence are in any language, and what is built on that: n-grams, overlap, grades."""
