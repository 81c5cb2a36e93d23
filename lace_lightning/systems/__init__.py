"""Systems that draw pictures by attribute: LACE and the models it is compared with."""
