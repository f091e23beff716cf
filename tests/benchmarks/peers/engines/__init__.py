"""Each engine's rows: which of its modes take part, and how its worker and its server are started."""
