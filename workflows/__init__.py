"""Join extractors and model: extract, train, evaluate, detect, measure."""
