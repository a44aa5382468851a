"""Who answers questions about features: an endpoint that speaks the OpenAI protocol, or a chat model run here."""
