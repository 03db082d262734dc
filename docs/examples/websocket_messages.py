"""
A websocket whose messages are chats, each metered as a request.
"""

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from tokenbudget_mw_fastapi import TokenBudget

# the settings
TOKENBUDGET = {
    "identify": "ip",
    "routes": [
        {"path": "/chat", "websocket": "message", "format": "openai.chat"},
        {"path": "/live"},  # metered as a connection
    ],
    "plans": {"free": ["3 requests/minute", "2 concurrent"]},
    "default_plan": "free",
}
# the app
app = FastAPI()
budget = TokenBudget(app, TOKENBUDGET)


@app.websocket("/chat")
async def chat(websocket: WebSocket) -> None:
    """Answer each message."""
    await websocket.accept()
    try:
        while True:
            await websocket.receive_json()
            await websocket.send_json({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    except WebSocketDisconnect:
        return
