"""How well cheap signals of a rewrite's worth predict a target within documents: `notewright validity CONFIG`."""
