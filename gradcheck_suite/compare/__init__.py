"""What agreement means: tolerances, three-valued verdicts and the words for a disagreement. No torch here."""
