"""The sidecar: this device's assistant for apps that are not written in Python, over HTTP on loopback or a Unix socket.

app.py joins the parts; security.py stands before all of them. Nothing in this package opens a connection.
"""
