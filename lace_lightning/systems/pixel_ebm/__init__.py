"""Energy-based models of pictures: JEM and Cond-EBM."""
