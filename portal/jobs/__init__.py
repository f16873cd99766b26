"""Jobs: their ids, directories, states, rows, scripts, and what people may ask of them."""
