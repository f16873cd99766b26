# The inputs, as the portal checked them.
input_x='8'
input_y='2'

slow_div "$input_x" "$input_y"
