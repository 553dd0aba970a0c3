"""How tuning changes a language model's neurons: capture, attribution, interventions."""
